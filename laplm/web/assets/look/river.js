// The residual stream of one word as a river through the layers: as broad as the vector is long,
// fed by attention from the left and by the feed-forward from the right. Beside it the lens, and
// the head of each layer that adds most.

import { decimal, h, percent, replace, svg } from "../dom.js";
import { plainToken } from "./sentence.js";

const WIDTH = 150; // of the picture; the stream has at most half of it
const MIDDLE = WIDTH / 2;
// So that many layers are no long way on a phone, and each still large enough for a finger.
const tall = (layers) => (layers <= 12 ? 44 : innerWidth < 600 ? 24 : 28);

/** One layer's piece of the river. */
function piece(before, after, attention, feed, unit, height) {
  const [a, b] = [before, after].map((norm) => Math.max(1, (norm * unit) / 2));
  const half = height / 2;
  const bank = (side) => [MIDDLE + side * a, MIDDLE + side * b];
  const [[leftTop, leftEnd], [rightTop, rightEnd]] = [bank(-1), bank(1)];
  const bed =
    `M${leftTop} 0 L${rightTop} 0 ` +
    `C${rightTop} ${half},${rightEnd} ${half},${rightEnd} ${height} L${leftEnd} ${height} ` +
    `C${leftEnd} ${half},${leftTop} ${half},${leftTop} 0 Z`;
  const shore = Math.max(1, Math.min(a, b));
  const inflow = (side, at) => {
    const x = (distance) => MIDDLE + side * distance;
    const bend = (MIDDLE + shore) / 2;
    return `M${x(MIDDLE)} ${at} C${x(bend)} ${at},${x(bend)} ${at + 6},${x(shore - 2)} ${at + 6}`;
  };
  const wide = (v) => `${Math.max(1, Math.min(height * 0.4, v * unit))}px`;
  const left = svg("path", { class: "inflow attention", d: inflow(-1, height * 0.3) });
  const right = svg("path", { class: "inflow feed", d: inflow(1, height * 0.5) });
  left.style.setProperty("stroke-width", wide(attention));
  right.style.setProperty("stroke-width", wide(feed));
  return svg(
    "svg",
    {
      class: "river",
      viewBox: `0 0 ${WIDTH} ${height}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    svg("path", { class: "bed", d: bed }),
    left,
    right,
  );
}

/** The button that opens a layer. */
function layerButton({ layer, adds, feeds, word, p }, seen, act) {
  const open = seen.block?.layer === layer;
  const mine = (part) => part.split(":")[1].split(".")[0] === String(layer);
  const offs = [...act.off].filter(mine).length;
  const off = offs ? `${offs} switched off` : "";
  const said =
    `Layer ${layer}: attention adds ${adds.toFixed(1)}, feed-forward ${feeds.toFixed(1)}; ` +
    `then the likeliest next token is ${word}, ${percent(p)}`;
  return h("button", {
    type: "button",
    class: "layer",
    "aria-pressed": String(open),
    "data-key": `layer:${layer}`,
    "aria-label": off ? `${said}; ${off}` : said,
    text: offs ? `${layer} −${offs}` : String(layer),
    title: off || null,
    onclick: () => act.open(layer),
  });
}

/** What the lens reads after a layer. */
const lensWord = (layer, word, p, right) =>
  h(
    "span",
    {
      class: `lens-word${right ? " right" : ""}`,
      style: { "--p": p.toFixed(3) },
      title: `after layer ${layer} the likeliest is ${word}, ${percent(p)}`,
    },
    h("span", { class: "mono", text: plainToken(word) }),
    h("small", { text: p < 0.005 ? "<1 %" : `${Math.round(100 * p)} %` }),
  );

/** The head of a layer that adds most, where that is known. */
const bestButton = (layer, best, choose) =>
  best
    ? h("button", {
        type: "button",
        class: "best",
        "data-key": `best:${layer}`,
        text: `${layer}.${best.head}`,
        title: `its head that adds most: ${decimal(best.adds, 2)}, looking at ${best.looks}`,
        "aria-label": `Head ${layer}.${best.head}, which adds most in this layer`,
        onclick: () => choose(layer, best.head),
      })
    : h("span");

const HEADINGS = ["layer", "vector X", "would say", "head"];

/** What stands below the river. */
const legend = (token, streams) => [
  h(
    "p",
    { class: "note" },
    h("span", { class: "swatch attention" }),
    " attention adds  ",
    h("span", { class: "swatch feed" }),
    " feed-forward adds",
  ),
  h("p", {
    class: "note",
    text:
      `The residual stream: the vector X of “${token}” on its way through the layers, as broad ` +
      `as it is long: ${streams[0].toFixed(1)} at the top, ${streams.at(-1).toFixed(1)} at the ` +
      "end. Would say: the next token, were this the last layer (logit lens). Head: the one of " +
      "the layer that adds most.",
  }),
];

/**
 * @param {HTMLElement} root @param {any} seen the result of /api/look/inside
 * @param {{open: (layer: number) => void, off: Set<string>, best: (layer: number) => any,
 *   choose: (layer: number, head: number) => void}} act
 */
export function drawRiver(root, seen, act) {
  const at = seen.position;
  const streams = seen.stream_norms.map((row) => row[at]);
  const unit = (0.5 * WIDTH) / Math.max(...streams);
  const height = tall(seen.attention_norms.length);
  const column = at - (seen.lens?.first ?? 0);
  const lens = seen.lens?.tokens.map((row, i) => [row[column], seen.lens.probabilities[i][column]]);
  const final = lens?.at(-1)[0];
  const rows = seen.attention_norms.map((attention, layer) => {
    const [adds, feeds] = [attention[at], seen.feed_forward_norms[layer][at]];
    const [word, p] = lens?.[layer + 1] ?? ["", 0];
    return h(
      "li",
      { class: seen.block?.layer === layer ? "open" : "" },
      layerButton({ layer, adds, feeds, word, p }, seen, act),
      piece(streams[layer], streams[layer + 1], adds, feeds, unit, height),
      lensWord(layer, word, p, word === final),
      bestButton(layer, act.best(layer), act.choose),
    );
  });
  const list = h("ol", { class: "layers", style: { "--row": `${height}px` } }, rows);
  const headings = HEADINGS.map((text) => h("span", { text }));
  replace(
    root,
    h("div", { class: "layers-head note", "aria-hidden": "true" }, headings),
    list,
    ...legend(seen.tokens[at], streams),
  );
}
