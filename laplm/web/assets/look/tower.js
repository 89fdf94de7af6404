// The layers (blocks) as a tower; one is open, and shows its norm, heads, sums and neurons. Only
// the open one is drawn in full, so a model of 48 layers is as quick to draw as one of 6.

import { paintPattern, strip } from "../charts.js";
import { arrowKeys, h, percent } from "../dom.js";
import { STAGES } from "./stages.js";

const sentence = (name) => STAGES.find((stage) => stage.name === name).sentence;

/** A part of the open block that the walk-through can stop at. */
const stage = (name, title, ...children) =>
  h(
    "section",
    { class: "stage inner", "data-stage": name },
    h("h4", { text: title }),
    h("p", { class: "sentence", text: sentence(name) }),
    ...children,
  );

// No -0.00.
const tidy = (number) => (Math.abs(number) < 0.005 ? 0 : number).toFixed(2);

/** A vector as a strip, with its length. */
export function vectorRow(vector, words, unit = "length") {
  return h(
    "div",
    { class: "vector" },
    h("span", { class: "vector-name", text: words }),
    strip(vector.numbers, `${words}: the first ${vector.numbers.length} numbers`),
    h("span", {
      class: "number",
      text:
        unit === "length"
          ? `length ${vector.norm.toFixed(1)}`
          : `mean ${tidy(vector.mean)}, variance ${tidy(vector.variance)}`,
    }),
  );
}

/** A button that switches a part off and on. */
function partSwitch(part, label, off, toggle) {
  return h("button", {
    type: "button",
    class: "switch",
    "aria-pressed": String(off),
    "data-key": part,
    "aria-label": `${label}, switched off`,
    text: off ? "off" : "on",
    onclick: () => toggle(part),
  });
}

/**
 * @param {any} seen the result of /api/look/inside
 * @param {{off: Set<string>, toggle: (part: string) => void, open: (layer: number) => void}} act
 * @returns {HTMLElement}
 */
export function makeTower(seen, act) {
  const at = seen.position;
  const longest = Math.max(...seen.stream_norms.map((row) => row[at]));
  const say = seen.lens?.tokens.map((row) => row[at - seen.first]);
  const blocks = seen.attention_norms.map((attention, layer) => {
    const open = seen.block?.layer === layer;
    const offs = [...act.off].filter(
      (part) => part.split(":")[1].split(".")[0] === String(layer),
    ).length;
    const width = (v) => ({ width: `${(100 * v) / longest}%` });
    const head = h(
      "button",
      {
        type: "button",
        class: "floor",
        "aria-expanded": String(open),
        "data-key": `block:${layer}`,
        onclick: () => act.open(open ? null : layer),
      },
      h("span", { class: "floor-name", text: `Layer ${layer}` }),
      h(
        "span",
        { class: "floor-bars", "aria-hidden": "true" },
        h("span", { class: "line attention", style: width(attention[at]) }),
        h("span", { class: "line feed", style: width(seen.feed_forward_norms[layer][at]) }),
      ),
      h("span", {
        class: "floor-note",
        text:
          `attention adds ${attention[at].toFixed(1)}, feed-forward ` +
          `${seen.feed_forward_norms[layer][at].toFixed(1)}`,
      }),
      offs ? h("span", { class: "tag on", text: `${offs} off` }) : null,
      say
        ? h("span", {
            class: "floor-say",
            title: "its logit lens: the likeliest next token after this layer",
            text: say[layer + 1],
          })
        : null,
    );
    return h("li", { class: open ? "open" : "" }, head, open ? openBlock(seen, act) : null);
  });
  return h("ol", { class: "tower" }, blocks);
}

function openBlock(seen, act) {
  const block = seen.block;
  const vectors = Object.fromEntries(block.vectors.map((vector) => [vector.name, vector]));
  const { layer } = block;
  const sublayer = (kind) => `${kind}:${layer}`;
  return h(
    "div",
    { class: "inside-block" },
    stage(
      "norm",
      "Layer norm",
      vectorRow(vectors.resid_pre, "X comes in", "moments"),
      vectorRow(vectors.ln1_normalized, "normalised", "moments"),
      vectorRow(vectors.ln1, "with gain and shift", "moments"),
    ),
    stage(
      "attention",
      `Attention: ${block.patterns.length} heads`,
      heads(seen, act),
      h(
        "p",
        { class: "row" },
        partSwitch(
          sublayer("attention"),
          `All attention of layer ${layer}`,
          act.off.has(sublayer("attention")),
          act.toggle,
        ),
        h("span", { class: "note", text: "all attention of this layer" }),
      ),
    ),
    stage(
      "residual",
      "Residual sum",
      vectorRow(vectors.resid_pre, "X"),
      vectorRow(vectors.attn_out, "+ ΔX of attention"),
      vectorRow(vectors.resid_mid, "= X between"),
    ),
    stage(
      "feed",
      `Feed-forward: ${seen.sizes.n_inner.toLocaleString("en")} neurons`,
      h("p", {
        class: "note",
        text: `${percent(block.active)} of the neurons are active at this token.`,
      }),
      neurons(block, act),
      vectorRow(vectors.mlp_out, "ΔX of the feed-forward"),
      vectorRow(vectors.resid_post, "X + ΔX goes out"),
      h(
        "p",
        { class: "row" },
        partSwitch(
          sublayer("feed-forward"),
          `The feed-forward of layer ${layer}`,
          act.off.has(sublayer("feed-forward")),
          act.toggle,
        ),
        h("span", { class: "note", text: "the whole feed-forward of this layer" }),
      ),
    ),
  );
}

/** The heads as maps; the row of tokens under them shows where one token looks with one head. */
function heads(seen, act) {
  const { block, first } = seen;
  const labels = seen.tokens.slice(first);
  let asking = seen.position - first;
  let shown = 0;
  const about = h("p", { class: "note looks", "aria-live": "off" });
  const tokens = labels.map((label, i) => {
    const button = h("button", {
      type: "button",
      class: "chip look",
      text: label,
      "data-key": `ask:${i}`,
    });
    const ask = () => {
      asking = i;
      draw();
    };
    button.addEventListener("mouseenter", ask);
    button.addEventListener("focus", ask);
    button.addEventListener("click", ask);
    return button;
  });
  const canvases = block.patterns.map(() => h("canvas", { "aria-hidden": "true" }));
  const cards = block.patterns.map((pattern, i) => {
    const part = `head:${block.layer}.${i}`;
    const off = act.off.has(part);
    const most = pattern[asking].indexOf(Math.max(...pattern[asking]));
    const button = h(
      "button",
      {
        type: "button",
        class: `head${off ? " off" : ""}`,
        "aria-pressed": String(off),
        "data-key": part,
        "aria-label":
          `Head ${block.layer}.${i} switched off; it attends most to ` +
          `${labels[most]}, ${percent(pattern[asking][most])}`,
        onclick: () => act.toggle(part),
      },
      canvases[i],
      h("span", { text: off ? `head ${block.layer}.${i}: off` : `head ${block.layer}.${i}` }),
      h("span", { class: "note", text: `adds ${block.head_norms[i].toFixed(1)}` }),
    );
    const show = () => {
      shown = i;
      draw();
    };
    button.addEventListener("mouseenter", show);
    button.addEventListener("focus", show);
    return button;
  });

  function draw() {
    block.patterns.forEach((pattern, i) => paintPattern(canvases[i], pattern, asking));
    const row = block.patterns[shown][asking];
    tokens.forEach((chip, i) => {
      chip.style.setProperty("--share", i <= asking ? row[i].toFixed(3) : "0");
      chip.classList.toggle("asking", i === asking);
      chip.title = i <= asking ? `${labels[i]}: ${percent(row[i])}` : "comes later: cannot be seen";
    });
    const best = row
      .map((share, i) => [share, i])
      .slice(0, asking + 1)
      .sort((a, b) => b[0] - a[0])
      .slice(0, 3);
    const before = block.earlier[shown][asking];
    const most = best.map(([share, i]) => `“${labels[i]}” ${percent(share)}`).join(", ");
    const rest = before > 0.0005 ? `; to tokens further back ${percent(before)}` : "";
    const head = `Head ${block.layer}.${shown}`;
    about.textContent = `${head}: “${labels[asking]}” attends to ${most}${rest}.`;
  }

  draw();
  // Colours of a canvas do not follow the theme by themselves.
  const again = () =>
    canvases[0].isConnected ? draw() : document.removeEventListener("themechange", again);
  document.addEventListener("themechange", again);
  const maps = h("div", { class: "heads", role: "group", "aria-label": "Heads" }, cards);
  const chips = h(
    "div",
    { class: "chips", role: "group", "aria-label": "Tokens that look" },
    tokens,
  );
  arrowKeys(maps, ".head")(cards[0]);
  arrowKeys(chips, ".chip")(tokens[asking]);
  return h("div", {}, maps, about, chips);
}

function neurons(block, act) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Strongest neurons" },
    h(
      "table",
      { class: "plain" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["neuron", "activation", "promotes", "suppresses", ""].map((text) =>
            h("th", { scope: "col", text }),
          ),
        ),
      ),
      h(
        "tbody",
        {},
        block.neurons.map((neuron) => {
          const part = `neuron:${block.layer}.${neuron.index}`;
          return h(
            "tr",
            {},
            h("th", { scope: "row", text: String(neuron.index) }),
            h("td", { class: "number", text: neuron.activation.toFixed(2) }),
            h("td", { class: "mono", text: neuron.promotes.slice(0, 4).join(" ") }),
            h("td", { class: "mono", text: neuron.suppresses.slice(0, 4).join(" ") }),
            h("td", {}, partSwitch(part, `Neuron ${neuron.index}`, act.off.has(part), act.toggle)),
          );
        }),
      ),
    ),
  );
}
