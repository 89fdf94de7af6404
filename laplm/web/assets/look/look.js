// The Look inside tab: one request a change, and everything between the text and its next token
// drawn from the answer.

import { aborted, post } from "../api.js";
import { scatter } from "../charts.js";
import { arrowKeys, debounce, freshId, h, keepFocus, looseSpace, replace, slider } from "../dom.js";
import { chosenModel, onModels } from "../models-list.js";
import { drawLens } from "./lens.js";
import { drawGlance, drawLogits, drawNext } from "./next.js";
import { STAGES } from "./stages.js";
import { makeTower, vectorRow } from "./tower.js";
import { makeWalk } from "./walk.js";

const TYPING = 40; // ms without a key before the model is asked
const WINDOW = 24; // positions that are shown in full

/** @param {HTMLElement} root */
export function startLook(root) {
  const state = { position: null, layer: 0, off: new Set() };
  let shown = false;
  let running = null;
  let seen = null;

  const textId = freshId();
  const text = h("textarea", { id: textId, rows: 2, spellcheck: "false" });
  text.value = "Once upon a time, there was a little dog. The little dog";
  const wordsId = freshId();
  const words = h("input", {
    id: wordsId,
    type: "text",
    value: "cat, mother, king, queen",
    spellcheck: "false",
  });
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const timing = h("p", { class: "status" });
  const offs = h("p", { class: "row offs", role: "status" });

  const moved = () => askForNext();
  const temperature = slider({
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    value: 1,
    say: (v) => (v === 0 ? "0, greedy" : v.toFixed(2)),
    change: moved,
  });
  const topK = slider({
    label: "Top-k",
    min: 0,
    max: 50,
    step: 1,
    value: 0,
    say: (v) => (v ? String(v) : "off"),
    change: moved,
  });
  const topP = slider({
    label: "Top-p",
    min: 0.05,
    max: 1,
    step: 0.01,
    value: 1,
    say: (v) => (v === 1 ? "off" : v.toFixed(2)),
    change: moved,
  });

  const bodies = {};
  const section = (name, ...extra) => {
    const { title, sentence } = STAGES.find((stage) => stage.name === name);
    bodies[name] = h("div", { class: "stage-body" });
    return h(
      "section",
      { class: "stage card", "data-stage": name },
      h("h3", { text: title }),
      h("p", { class: "sentence", text: sentence }),
      ...extra,
      bodies[name],
    );
  };
  const lens = h("div", { class: "stage-body" });
  // Hidden from screen readers, for the bars themselves are read out.
  const glance = h("p", { class: "glance", "aria-hidden": "true" });
  const logits = section("logits");
  logits.append(lens);
  const walk = makeWalk(
    (name) => root.querySelector(`[data-stage=${name}]`),
    () => act.open(0), // four of the stages are inside a block: one must be open
  );
  root.append(
    h(
      "div",
      { class: "card form" },
      h("div", { class: "field wide" }, h("label", { for: textId, text: "Text" }), text),
      h("div", { class: "row between" }, walk.button, timing),
      error,
      offs,
    ),
    h(
      "div",
      { class: "look" },
      h(
        "div",
        { class: "flow" },
        section("tokens"),
        section(
          "embeddings",
          h(
            "div",
            { class: "field" },
            h("label", { for: wordsId, text: "Words to compare with (at most 12)" }),
            words,
          ),
        ),
        section("positions"),
        section("block"),
        section("final"),
        logits,
        glance,
      ),
      h(
        "aside",
        { class: "side", "aria-label": "The next token" },
        section(
          "sampling",
          h("div", { class: "controls narrow" }, temperature.element, topK.element, topP.element),
        ),
      ),
    ),
    walk.bar,
  );

  const act = {
    off: state.off,
    toggle(part) {
      if (!state.off.delete(part)) state.off.add(part);
      ask();
    },
    open(layer) {
      state.layer = layer;
      ask();
    },
  };

  /** Ask the model; the request before is given up, for its answer is of no use any more. */
  async function request(more, use) {
    running?.abort();
    const control = new AbortController();
    running = control;
    if (!text.value) {
      timing.textContent = "Type something to look at.";
      return;
    }
    const start = performance.now();
    try {
      const answer = await post(
        "/api/look/inside",
        {
          model: chosenModel(),
          text: text.value,
          without: [...state.off],
          position: state.position ?? -1,
          temperature: temperature.value(),
          top_k: topK.value(),
          top_p: topP.value(),
          window: WINDOW,
          ...more,
        },
        control.signal,
      );
      if (running !== control) return;
      error.hidden = true;
      root.classList.remove("stale");
      use(answer.result);
      timing.textContent =
        `${answer.result.ids.length} tokens, ${answer.result.model}: computed in ` +
        `${Math.round(1000 * answer.seconds)} ms, shown after ` +
        `${Math.round(performance.now() - start)} ms.${looseSpace(text.value)}`;
      root.dataset.took = String(Math.round(performance.now() - start));
    } catch (problem) {
      if (aborted(problem)) return;
      error.textContent = problem.message;
      error.hidden = false;
      root.classList.add("stale"); // what is still shown is of the text before
    }
  }

  function ask() {
    if (!shown) return;
    const chosen = words.value
      .split(",")
      .map((word) => word.trim())
      .filter(Boolean)
      .slice(0, 12);
    request({ layer: state.layer, words: chosen }, draw);
  }

  // A slider changes nothing before the logits: the rest need not be computed or drawn again.
  function askForNext() {
    if (!shown || !seen) return;
    request({ lens: false }, drawBars);
  }

  function drawBars(result) {
    drawNext(bodies.sampling, result);
    drawGlance(glance, result);
  }

  function draw(result) {
    seen = result;
    keepFocus(root, () => {
      replace(
        bodies.tokens,
        h(
          "div",
          { class: "chips" },
          seen.tokens.map((token, i) =>
            h(
              "button",
              {
                type: "button",
                class: `chip${i === seen.position ? " here" : ""}`,
                "aria-pressed": String(i === seen.position),
                "data-key": `token:${i}`,
                title: "follow this token",
                onclick: () => {
                  state.position = i === seen.tokens.length - 1 ? null : i;
                  ask();
                },
              },
              token,
              h("small", { text: String(seen.ids[i]) }),
            ),
          ),
        ),
        h(
          "p",
          { class: "note" },
          "Followed below: ",
          h("b", { class: "mono", text: seen.tokens[seen.position] }),
          `, position ${seen.position}. Choose another to follow it.`,
        ),
      );
      const chips = bodies.tokens.firstChild;
      arrowKeys(chips, ".chip")(chips.querySelector(".here"));
      chips.scrollTop =
        chips.querySelector(".here").offsetTop - chips.offsetTop - chips.clientHeight / 2;
      drawEmbeddings(bodies.embeddings, seen);
      const [token, position, sum] = seen.embedding;
      replace(
        bodies.positions,
        vectorRow(token, `“${seen.tokens[seen.position]}”`),
        vectorRow(position, `+ position ${seen.position}`),
        vectorRow(sum, "= X, into layer 0"),
      );
      replace(
        bodies.block,
        h(
          "p",
          { class: "note key-lines" },
          h("span", { class: "swatch attention" }),
          " attention adds  ",
          h("span", { class: "swatch feed" }),
          " feed-forward adds  (lengths at the token that is followed); at the " +
            "right, the logit lens: the likeliest next token after each layer",
        ),
        makeTower(seen, act),
      );
      const [end, normed, last] = seen.final;
      replace(
        bodies.final,
        vectorRow(end, "X after the last layer", "moments"),
        vectorRow(normed, "normalised", "moments"),
        vectorRow(last, "with gain and shift", "moments"),
      );
      drawLogits(bodies.logits, seen);
      drawLens(lens, seen);
      drawBars(seen);
      drawOffs();
    });
    walk.drawn();
  }

  function drawOffs() {
    if (!state.off.size) {
      replace(offs);
      return;
    }
    replace(
      offs,
      `Switched off: ${[...state.off].map(partName).join(", ")}`,
      h("button", {
        type: "button",
        text: "Switch all on",
        "data-key": "all-on",
        onclick: () => {
          state.off.clear();
          ask();
        },
      }),
    );
  }

  const typed = debounce(() => {
    state.position = null; // what was followed may be gone
    ask();
  }, TYPING);
  text.addEventListener("input", typed);
  words.addEventListener("input", debounce(ask, 250));
  document.addEventListener("themechange", () => seen && draw(seen));
  let model = null;
  onModels(() => {
    if (chosenModel() === model) return;
    model = chosenModel();
    Object.assign(state, { position: null, layer: 0 });
    state.off.clear();
    ask();
  });
  return {
    shown() {
      shown = true;
      if (model) ask();
    },
  };
}

/** "head:3.1" in words; layers and heads count from 0. */
function partName(part) {
  const [kind, where] = part.split(":");
  return kind === "head" || kind === "neuron" ? `${kind} ${where}` : `${kind} of layer ${where}`;
}

function drawEmbeddings(body, seen) {
  if (!seen.points) {
    replace(
      body,
      h("p", { class: "note", text: "Three different tokens or words make a picture." }),
    );
    return;
  }
  const points = seen.point_labels.map((label, i) => ({
    label,
    x: seen.points.scores[i][0],
    y: seen.points.scores[i][1] ?? 0,
    own: seen.point_ids[i] === null,
  }));
  const share = seen.points.explained.reduce((a, b) => a + b, 0);
  replace(
    body,
    scatter(points, `Embeddings of ${seen.point_labels.join(", ")}`),
    h(
      "p",
      { class: "note" },
      h("span", { class: "swatch c0" }),
      " tokens of the text  ",
      h("span", { class: "swatch c1" }),
      ` your words. These two directions hold ${Math.round(100 * share)} % of ` +
        `the differences among them, of ${seen.sizes.n_embd} dimensions.`,
    ),
  );
}
