// The next token: its bars, drawing one, and taking the one that is clicked.

import { makeProbabilityBars } from "../bars.js";
import { h, percent, replace } from "../dom.js";
import { foldedSettings, samplingSliders, valuesOf } from "../folded.js";

/**
 * @param {{settings: () => void, draw: () => void, take: (item: any) => void}} act
 * @returns {{element: HTMLElement, bars: HTMLElement, values: () => any,
 *   update: (seen: any) => void}}
 */
export function makeNext(act) {
  const sliders = samplingSliders({ temperature: 1, top_k: 0, most_k: 50, change: act.settings });
  const bars = makeProbabilityBars("Probabilities of the next token", (item) => act.take(item));
  const after = h("p", { class: "note" });
  // It keeps its place: what is below the bars does not move when a part is switched off.
  const legend = h("p", { class: "note unshown" }, "with all parts");
  const draw = h("button", { type: "button", class: "main", text: "Draw", onclick: act.draw });
  const element = h(
    "aside",
    { class: "card next", "aria-label": "The next token" },
    h("div", { class: "row between" }, h("h3", { text: "Next token" }), draw),
    after,
    bars.element,
    legend,
    foldedSettings("Temperature, top-k, top-p", Object.values(sliders), { narrow: true }),
  );

  function update(seen) {
    const before = seen.whole_drawn?.probabilities;
    const now = seen.drawn.probabilities;
    bars.update(
      seen.next_tokens.map((label, i) => ({
        label,
        p: now[i],
        before: before?.[i],
        out: now[i] === 0,
        takes: seen.next_texts[i] !== null,
        text: seen.next_texts[i],
        id: seen.next_ids[i],
      })),
    );
    replace(
      after,
      "After ",
      h("b", { class: "mono", text: seen.tokens[seen.position] }),
      `: entropy ${seen.drawn.entropy.toFixed(2)} bits (0: it is certain)${canBeDrawn(seen)}. ` +
        "A full bar is 100 %; a click takes the token; · is a space.",
    );
    legend.classList.toggle("unshown", !before);
    if (before)
      replace(
        legend,
        h("span", { class: "swatch ghost" }),
        " with all parts  ",
        h("span", { class: "swatch fill" }),
        ` with ${seen.without.length} switched off`,
      );
  }
  return { element, bars: bars.element, values: () => valuesOf(sliders), update };
}

/** How many tokens the settings have left, if not all. */
const canBeDrawn = ({ drawn, plain }) =>
  drawn.kept < plain.kept ? `, ${drawn.kept.toLocaleString("en")} tokens can be drawn` : "";

/**
 * A token drawn from what was seen: by its place among those shown, or null where the lot falls on
 * one that is not among them.
 * @param {any} seen @param {number} lot from 0 to 1
 */
export function drawnOf(seen, lot) {
  let sum = 0;
  const at = seen.drawn.probabilities.findIndex((p) => {
    sum += p;
    return lot < sum;
  });
  return at < 0 ? null : at;
}

/** The likeliest tokens in one line, for screens on which the bars are out of sight. */
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
