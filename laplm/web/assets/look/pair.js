// One head, two words: the query of the word that is followed, the key and the value of the other,
// their product, the mask and the softmax.

import { strip } from "../charts.js";
import { decimal, h, percent, replace } from "../dom.js";
import { isOff, offMark } from "./heads.js";
import { namedToken } from "./sentence.js";

const ROWS = 6;
const scaleOf = (...vectors) => Math.max(...vectors.flat().map(Math.abs), 1e-9);
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

const row = (name, numbers, most, said) =>
  h(
    "div",
    { class: "vector" },
    h("span", { class: "vector-name", text: name }),
    strip(numbers, `${name}: ${numbers.length} numbers`, most),
    h("span", { class: "number", text: said }),
  );

/** Every word that can be seen, by its score: what the softmax makes of all of them. */
function scores(seen, opened, key, choose) {
  const { first, position } = seen;
  const at = position - first;
  const words = seen.tokens.slice(first);
  const later = words.length - 1 - at;
  const order = opened.scores
    .map((score, i) => ({ score, i, p: opened.pattern[i] }))
    .slice(0, at + 1)
    .sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
  const shown = order.filter(({ i }, rank) => rank < ROWS || first + i === key);
  const left = order.length - shown.length;
  const notes = [
    left ? `${left} more words have lower scores.` : "",
    later
      ? `${later} later words are masked: −∞ becomes 0 %.`
      : "No word comes later: none is masked.",
  ];
  return [
    h(
      "table",
      { class: "plain scores" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["key", "score", "share"].map((text) => h("th", { scope: "col", text })),
        ),
      ),
      h(
        "tbody",
        {},
        shown.map(({ score, i, p }) =>
          h(
            "tr",
            { class: first + i === key ? "here" : "" },
            h(
              "th",
              { scope: "row" },
              h("button", {
                type: "button",
                class: "link mono",
                text: words[i],
                "data-key": `score:${i}`,
                "aria-label": `compare with ${words[i]}, position ${first + i}`,
                onclick: () => choose(first + i),
              }),
            ),
            h("td", { class: "number", text: score === null ? "masked" : decimal(score, 2) }),
            h(
              "td",
              {},
              h(
                "span",
                { class: "bar", "aria-hidden": "true" },
                h("span", { class: "fill", style: { width: `${(100 * p).toFixed(1)}%` } }),
              ),
              h("span", { class: "number", text: percent(p) }),
            ),
          ),
        ),
      ),
    ),
    h("p", { class: "note", text: notes.filter(Boolean).join(" ") }),
  ];
}

/**
 * @param {HTMLElement} root @param {any} seen the result of /api/look/inside
 * @param {number} key the position of the other word
 * @param {(key: number) => void} choose
 */
export function drawPair(root, seen, key, choose) {
  const { block, first, position } = seen;
  const { opened } = block;
  const [from, to] = [seen.tokens[position], seen.tokens[key]];
  const answers = namedToken(seen.tokens, key);
  const [k, v] = [opened.keys[key - first], opened.values[key - first]];
  const products = opened.query.map((q, i) => q * k[i]);
  const dot = sum(products);
  const score = opened.scores[key - first];
  const p = opened.pattern[key - first];
  const most = scaleOf(opened.query, k);
  const { n_head: heads, n_kv_head: keyHeads } = seen.sizes;
  const shared =
    keyHeads && keyHeads < heads
      ? `Key and value are those of key head ${opened.key_head}, which ${heads / keyHeads} heads ` +
        "share. "
      : "";
  const after =
    score === null
      ? "masked: this head does not look so far back"
      : `${decimal(dot, 1)} × ${opened.scale.toFixed(3)} = ${decimal(score, 2)}`;
  const off = isOff(seen, block.layer, opened.head);
  root.classList.toggle("off", off);
  const head = `Head ${block.layer}.${opened.head}`;
  replace(
    root,
    h(
      "h4",
      {},
      `${head}: ${namedToken(seen.tokens, position)} asks, ${answers} answers`,
      offMark(off),
    ),
    h("p", {
      class: "note",
      text:
        "The query says what a word looks for, the key what another one offers. As far as they " +
        "fit, its value is copied.",
    }),
    h(
      "div",
      { class: "vectors" },
      row("query q", opened.query, most, `of “${from}”`),
      row("key k", k, most, `of “${to}”`),
      row("q × k", products, scaleOf(products), `sum q·k = ${decimal(dot, 1)}`),
      row("value v", v, scaleOf(v), off ? "off: not copied" : `copied × ${percent(p)}`),
    ),
    h(
      "p",
      { class: "note" },
      `${shared}All ${k.length} numbers; q and k on one scale. Score: ${after}; its share, ` +
        `after the softmax over all words: `,
      h("b", { text: percent(p) }),
      ".",
    ),
    scores(seen, opened, key, choose),
  );
}
