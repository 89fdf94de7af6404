// The logit lens as a table: layers from above to below, tokens from left to right.

import { h, percent, replace } from "../dom.js";

const SHOWN = 10; // columns that can still be read

/** @param {HTMLElement} root @param {any} seen the result of /api/look/inside */
export function drawLens(root, seen) {
  const { first, stages, tokens, probabilities } = seen.lens;
  const count = tokens[0].length;
  // The columns up to the one that is followed.
  const end = Math.min(count, Math.max(seen.position - first + 1, Math.min(count, SHOWN)));
  const columns = Array.from(
    { length: Math.min(SHOWN, end) },
    (_, i) => end - Math.min(SHOWN, end) + i,
  );
  const final = tokens.at(-1);
  const rows = stages.map((stage, s) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", text: stage === "embedding" ? stage : `layer ${stage}` }),
      columns.map((c) =>
        h(
          "td",
          {
            class: tokens[s][c] === final[c] ? "lens right" : "lens",
            style: { "--p": probabilities[s][c].toFixed(3) },
            title: `${tokens[s][c]}: ${percent(probabilities[s][c])}`,
          },
          h("span", { text: tokens[s][c] }),
        ),
      ),
    ),
  );
  replace(
    root,
    h("p", {
      class: "note",
      text:
        "The likeliest next token read from the residual stream after each layer. Fuller colour: " +
        "more probable; bold: already the final answer.",
    }),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Logit lens" },
      h(
        "table",
        { class: "lens" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col", text: "after" }),
            columns.map((c) => h("th", { scope: "col", text: seen.tokens[first + c] })),
          ),
        ),
        h("tbody", {}, rows),
      ),
    ),
  );
}
