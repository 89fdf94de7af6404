// What is folded beneath: the steps of the open layer in numbers, embeddings, the lens of every
// word, logits. Only what is open is drawn.

import { scatter } from "../charts.js";
import { decimal, freshId, h, percent, replace } from "../dom.js";
import { partSwitch } from "./heads.js";
import { drawLens } from "./lens.js";
import { vectorRows } from "./vectors.js";

const byName = (block) => Object.fromEntries(block.vectors.map((each) => [each.name, each]));
const present = (rows) => rows.filter(([vector]) => vector);

function drawNorms(root, seen) {
  const x = byName(seen.block);
  const width = seen.sizes.n_embd;
  replace(
    root,
    h("p", {
      class: "sentence",
      text:
        "Before each step the vector is scaled (in GPT-2 also shifted to mean 0) to variance 1, " +
        "then given a learned gain. Before and after on one scale:",
    }),
    vectorRows(
      [
        [x.resid_pre, "X comes in"],
        [x.ln1_normalized, "normalised"],
        [x.ln1, "with gain and shift"],
      ],
      width,
      "moments",
    ),
    h("h4", { text: "Then it only adds: X + ΔX" }),
    vectorRows(
      present([
        [x.resid_pre, "X"],
        [x.attn_out, "+ ΔX of attention"],
        [x.resid_mid, "= X between"],
        [x.mlp_out, "+ ΔX of the feed-forward"],
        [x.resid_post, "= X goes out"],
      ]),
      width,
    ),
    h("h4", { text: "The last norm, after all layers" }),
    vectorRows(
      seen.final.map((vector, i) => [
        vector,
        ["X after the last layer", "normalised", "with gain and shift"][i],
      ]),
      width,
      "moments",
    ),
  );
}

function drawNeurons(root, seen, act) {
  const { block } = seen;
  const whole = `feed-forward:${block.layer}`;
  const columns = ["neuron", "activation", "promotes", "suppresses", ""];
  const rows = block.neurons.map((neuron) => {
    const part = `neuron:${block.layer}.${neuron.index}`;
    return h(
      "tr",
      {},
      h("th", { scope: "row", text: `${block.layer}.${neuron.index}` }),
      h("td", { class: "number", text: decimal(neuron.activation, 2) }),
      h("td", { class: "mono", text: neuron.promotes.slice(0, 4).join(" ") }),
      h("td", { class: "mono", text: neuron.suppresses.slice(0, 4).join(" ") }),
      h("td", {}, partSwitch(part, `Neuron ${neuron.index}`, act.off.has(part), act.toggle)),
    );
  });
  replace(
    root,
    h("p", {
      class: "sentence",
      text:
        `${seen.sizes.n_inner.toLocaleString("en")} neurons work on each word by itself; ` +
        `${percent(block.active)} are active at “${seen.tokens[seen.position]}” ` +
        `(${block.activation}). The most active, and the tokens that they promote and suppress:`,
    }),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Most active neurons" },
      h(
        "table",
        { class: "plain neurons" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            columns.map((text) => h("th", { scope: "col", text })),
          ),
        ),
        h("tbody", {}, rows),
      ),
    ),
    h(
      "p",
      { class: "row note" },
      partSwitch(whole, `The feed-forward of layer ${block.layer}`, act.off.has(whole), act.toggle),
      "the whole feed-forward of this layer",
    ),
  );
}

function drawEmbeddings(root, seen) {
  const parts = seen.embedding;
  const token = `“${seen.tokens[seen.position]}”`;
  const names = [token, `+ position ${seen.position}`, "= X, into layer 0"];
  const vectors = vectorRows(
    parts.map((vector, i) => [vector, names[i]]),
    seen.sizes.n_embd,
  );
  const turned =
    parts.length < 2
      ? "Positions turn queries and keys here (rotary): nothing is added to the vector. "
      : "";
  if (!seen.points) {
    replace(root, vectors, h("p", { class: "note", text: `${turned}Three tokens make a map.` }));
    return;
  }
  const points = seen.point_labels.map((label, i) => ({
    label,
    x: seen.points.scores[i][0],
    y: seen.points.scores[i][1] ?? 0,
    own: seen.point_ids[i] === null,
  }));
  const held = seen.points.explained.reduce((a, b) => a + b, 0);
  replace(
    root,
    vectors,
    scatter(points, `Embeddings of ${seen.point_labels.join(", ")}`),
    h(
      "p",
      { class: "note" },
      h("span", { class: "swatch c0" }),
      " tokens of the text  ",
      h("span", { class: "swatch c1" }),
      ` your words. ${turned}These two directions hold ${Math.round(100 * held)} % of the ` +
        `differences among them, of ${seen.sizes.n_embd} dimensions.`,
    ),
  );
}

function drawLogits(root, seen) {
  replace(
    root,
    h("p", {
      class: "sentence",
      text:
        "The last vector is compared with every token of the vocabulary, which gives each a " +
        "logit. Softmax makes them probabilities: a logit that is 1 higher is 2.7 times as likely.",
    }),
    h(
      "table",
      { class: "plain" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["token", "id", "logit", "probability"].map((text) => h("th", { scope: "col", text })),
        ),
      ),
      h(
        "tbody",
        {},
        seen.next_tokens
          .slice(0, 8)
          .map((token, i) =>
            h(
              "tr",
              {},
              h("th", { scope: "row", class: "mono", text: token }),
              h("td", { class: "number", text: String(seen.next_ids[i]) }),
              h("td", { class: "number", text: decimal(seen.logits[i], 2) }),
              h("td", { class: "number", text: percent(seen.plain.probabilities[i]) }),
            ),
          ),
      ),
    ),
  );
}

/**
 * @param {{off: Set<string>, toggle: (part: string) => void, asked: () => void}} act `asked` is
 *   called when something is wanted that the last answer does not have
 * @returns {{element: HTMLElement, update: (seen: any) => void, words: () => string[],
 *   wantsLens: () => boolean, openPart: (name: string) => void}}
 */
export function makeDetails(act) {
  const wordsId = freshId();
  const words = h("input", {
    id: wordsId,
    type: "text",
    value: "cat, mother, king, queen",
    spellcheck: "false",
  });
  words.addEventListener("change", () => act.asked());
  const wordsField = h(
    "div",
    { class: "field" },
    h("label", { for: wordsId, text: "Words to compare with (at most 12)" }),
    words,
  );
  let seen = null;
  const parts = {
    norms: ["Norms and sums of this layer, number by number", drawNorms],
    neurons: ["Neurons of this layer’s feed-forward", drawNeurons],
    embeddings: ["Embeddings and positions", drawEmbeddings, wordsField],
    lens: [
      "Logit lens of every word",
      (root, of) => of.lens.tokens[0].length > 1 && drawLens(root, of),
    ],
    logits: ["Logits", drawLogits],
  };
  const made = Object.entries(parts).map(([name, [title, draw, ...more]]) => {
    const body = h("div", { class: "detail-body" });
    const element = h(
      "details",
      { class: "card detail", "data-part": name },
      h("summary", { text: title }),
      ...more,
      body,
    );
    const redraw = () => {
      const needsBlock = name === "norms" || name === "neurons";
      if (element.open && seen && (seen.block || !needsBlock)) draw(body, seen, act);
    };
    element.addEventListener("toggle", () => {
      redraw();
      if (element.open && (name === "lens" || name === "embeddings")) act.asked();
    });
    return { name, element, redraw };
  });
  const find = (name) => made.find((each) => each.name === name);
  return {
    element: h(
      "div",
      { class: "details" },
      made.map((each) => each.element),
    ),
    update(next) {
      seen = next;
      made.forEach((each) => each.redraw());
    },
    words: () =>
      find("embeddings").element.open
        ? words.value
            .split(",")
            .map((word) => word.trim())
            .filter(Boolean)
            .slice(0, 12)
        : [],
    wantsLens: () => find("lens").element.open,
    openPart(name) {
      find(name).element.open = true;
    },
  };
}
