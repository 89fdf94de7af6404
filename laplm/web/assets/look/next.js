// The next token's bars: with all parts, with some switched off, after the settings.

import { h, percent, replace } from "../dom.js";

/**
 * @param {HTMLElement} root @param {any} seen the result of /api/look/inside
 */
export function drawNext(root, seen) {
  const before = seen.whole_drawn?.probabilities;
  const now = seen.drawn.probabilities;
  const most = Math.max(...now, ...(before ?? []), 0.01);
  const rows = seen.next_tokens.map((token, i) => {
    const gone = now[i] === 0;
    const said =
      `${token}: ` + `${percent(now[i])}${before ? `, with all parts ${percent(before[i])}` : ""}`;
    return h(
      "li",
      {
        class: gone ? "gone" : "",
        title: `${said}; as the model gives it ${percent(seen.plain.probabilities[i])}`,
      },
      h("span", { class: "word", text: token }),
      h(
        "span",
        { class: "bar", "aria-hidden": "true" },
        before
          ? h("span", { class: "ghost", style: { width: `${(100 * before[i]) / most}%` } })
          : null,
        h("span", { class: "fill", style: { width: `${(100 * now[i]) / most}%` } }),
      ),
      h("span", { class: "number", text: gone ? "out" : percent(now[i]) }),
    );
  });
  replace(
    root,
    h(
      "p",
      { class: "note" },
      "After ",
      h("b", { class: "mono", text: seen.tokens[seen.position] }),
      `: ${seen.drawn.kept.toLocaleString("en")} of ` +
        `${seen.plain.kept.toLocaleString("en")} tokens can be drawn; entropy ` +
        `${seen.drawn.entropy.toFixed(2)} bits.`,
    ),
    h("ul", { class: "bars", "aria-label": "Probabilities of the next token" }, rows),
    before
      ? h(
          "p",
          { class: "note" },
          h("span", { class: "swatch ghost" }),
          " with all parts  ",
          h("span", { class: "swatch fill" }),
          ` with ${seen.without.length} switched off`,
        )
      : null,
  );
}

/** The likeliest tokens in one line, for screens on which the bars are far below. */
export function drawGlance(root, seen) {
  const before = seen.whole_drawn?.probabilities;
  const best = seen.next_tokens
    .map((token, i) => ({ token, i, p: seen.drawn.probabilities[i] }))
    .sort((a, b) => b.p - a.p)
    .slice(0, 3);
  replace(
    root,
    h("b", { text: "Next: " }),
    best.map(({ token, i, p }) =>
      h(
        "span",
        {},
        h("span", { class: "mono", text: token }),
        ` ${percent(p)}`,
        before ? h("small", { text: ` was ${percent(before[i])}` }) : null,
      ),
    ),
  );
}

/** Logits as the model gives them, before the softmax. */
export function drawLogits(root, seen) {
  const [low, high] = [Math.min(...seen.logits), Math.max(...seen.logits)];
  replace(
    root,
    h(
      "ul",
      { class: "bars short", "aria-label": "Logits of the next token" },
      seen.next_tokens.slice(0, 6).map((token, i) =>
        h(
          "li",
          {},
          h("span", { class: "word", text: token }),
          h(
            "span",
            { class: "bar", "aria-hidden": "true" },
            h("span", {
              class: "fill soft",
              style: { width: `${10 + (90 * (seen.logits[i] - low)) / (high - low || 1)}%` },
            }),
          ),
          h("span", { class: "number", text: seen.logits[i].toFixed(2) }),
        ),
      ),
    ),
  );
}
