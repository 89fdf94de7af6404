// The Look inside tab: one request a change, and everything between the prompt and its next token
// drawn from the answer. What brings the token (`why`) takes longer, and follows.

import { aborted, post } from "../api.js";
import { debounce, freshId, h, keepFocus, looseSpace, replace, visible } from "../dom.js";
import { exampleChips, TEXTS } from "../examples.js";
import { chosenModel, onModels } from "../models-list.js";
import { bindPrompt, onPrompt, promptText, setPrompt } from "../prompt.js";
import { drawWords } from "./arcs.js";
import { makeDetails } from "./details.js";
import { drawHeads } from "./heads.js";
import { drawGlance, drawnOf, makeNext } from "./next.js";
import { drawPair } from "./pair.js";
import { drawRiver } from "./river.js";
import { drawSentence } from "./sentence.js";
import { makeWalk } from "./walk.js";
import { addsOf, askWhy, bestHead, strongestHead } from "./why.js";

const TYPING = 40; // ms without a key before the model is asked
const SETTLED = 350; // and before it is asked why
const WINDOW = 24; // positions that are shown in full
const MANY = 2000; // tokens that are asked for when the one that is drawn is none of those shown

/** @param {HTMLElement} root */
export function startLook(root) {
  const state = {
    position: null, // the word that is followed; null is the last
    layer: null,
    head: 0,
    key: null, // the other word of the pair; null is the one that is looked at most
    off: new Set(),
    chosen: false, // somebody chose the head: another prompt does not change it
  };
  let shown = false;
  let running = null;
  let asking = null;
  let seen = null;
  let why = null; // of what is shown, once it is known

  const textId = freshId();
  const text = h("textarea", { id: textId, rows: 2, spellcheck: "false" });
  bindPrompt(text, "look");
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const timing = h("p", { class: "status" });
  const offs = h("p", { class: "row offs", role: "status" });
  const sentence = h("p", { class: "story", "aria-live": "polite" });
  const words = h("div", { class: "words-body" });
  const river = h("section", { class: "card river-card", "aria-label": "Residual stream" });
  const heads = h("div", { class: "heads-body" });
  const headsTitle = h("h3");
  const pair = h("section", { class: "card pair", "aria-label": "Query, key and value" });
  // Hidden from screen readers, for the bars themselves are read out.
  const glance = h("p", { class: "glance", "aria-hidden": "true" });
  const next = makeNext({
    settings: () => seen && request({ lens: false }, drawBars),
    draw: drawToken,
    take: append,
  });
  const act = {
    off: state.off,
    toggle(part) {
      if (!state.off.delete(part)) state.off.add(part);
      ask();
    },
    open: (layer) => choose(layer, bestHead(why?.story, layer)?.head ?? 0),
    choose,
    best: (layer) => bestHead(why?.story, layer),
    adds: (layer, head) => addsOf(why?.story, layer, head),
    asked: () => ask(),
  };
  const details = makeDetails(act);
  const walk = makeWalk(root, {
    facts: () => (seen?.block?.opened && seen.lens ? [seen, why?.story ?? null, state.head] : null),
    prepare: details.openPart,
  });
  root.append(
    h(
      "div",
      { class: "card form look-prompt" },
      h("div", { class: "field wide" }, h("label", { for: textId, text: "Text" }), text),
      h("div", { class: "row between" }, exampleChips(TEXTS, setPrompt), walk.button),
      error,
      sentence,
      offs,
    ),
    h(
      "div",
      { class: "look" },
      h("div", { class: "look-words card" }, words),
      next.element,
      river,
      h("section", { class: "card heads-card", "aria-label": "Heads" }, headsTitle, heads),
      pair,
      details.element,
    ),
    timing,
    glance,
    walk.bar,
  );

  /** Ask the model; the request before is given up, for its answer is of no use any more. */
  async function request(more, use) {
    running?.abort();
    asking?.abort();
    const control = new AbortController();
    running = control;
    if (!promptText("look")) {
      timing.textContent = "Type something to look at.";
      return;
    }
    const start = performance.now();
    try {
      const answer = await post("/api/look/inside", { ...asked(), ...more }, control.signal);
      if (running !== control) return;
      error.hidden = true;
      root.classList.remove("stale");
      use(answer.result);
      const took = Math.round(performance.now() - start);
      timing.textContent =
        `${answer.result.ids.length} tokens, ${answer.result.model}: computed in ` +
        `${Math.round(1000 * answer.seconds)} ms, shown after ${took} ms.` +
        `${looseSpace(promptText("look"))}`;
      root.dataset.took = String(took);
    } catch (problem) {
      if (aborted(problem)) return;
      error.textContent = problem.message;
      error.hidden = false;
      root.classList.add("stale"); // what is still shown is of the text before
    }
  }

  const asked = () => ({
    model: chosenModel(),
    text: promptText("look"),
    without: [...state.off],
    position: state.position ?? -1,
    window: WINDOW,
    ...next.values(),
  });

  function ask() {
    if (!shown) return;
    const more = { words: details.words() };
    if (state.layer !== null) Object.assign(more, { layer: state.layer, head: state.head });
    if (!details.wantsLens()) more.lens_positions = 1;
    request(more, draw);
  }

  /** Ask why, once nobody types any more; and open what brings the token, if nothing is chosen. */
  async function story() {
    if (!shown || !seen) return;
    const of = seen;
    const ids = of.ids.slice(0, of.position + 1);
    if (why?.model === of.model && String(why.ids) === String(ids)) return;
    asking = new AbortController();
    let found;
    try {
      found = await askWhy(chosenModel(), ids, asking.signal);
    } catch (problem) {
      if (aborted(problem)) return;
      found = { sentence: plainSentence(of), story: null }; // logits of this kind are not split
    }
    if (of !== seen) return;
    why = { ...found, model: of.model, ids };
    drawSentence(sentence, why.sentence, choose);
    const best = why.story ? strongestHead(why.story) : { layer: 0, head: 0 };
    const follows = !state.chosen && (best.layer !== state.layer || best.head !== state.head);
    if (follows || state.layer === null) {
      Object.assign(state, { layer: best.layer, head: best.head, key: null });
      ask();
    } else draw(seen);
  }
  const storySoon = debounce(story, SETTLED);

  const plainSentence = (of) =>
    `After “${of.tokens[of.position]}” the likeliest token is “${of.next_tokens[0]}”.`;

  function choose(layer, head) {
    Object.assign(state, { layer, head, key: null, chosen: true });
    ask();
  }

  function drawBars(result) {
    next.update(result);
    drawGlance(glance, result);
  }

  function draw(result) {
    const known = seen;
    seen = result;
    const ids = seen.ids.slice(0, seen.position + 1);
    if (why && (why.model !== seen.model || String(why.ids) !== String(ids))) {
      why = null;
      sentence.classList.add("old");
    }
    if (why) sentence.classList.remove("old");
    if (!sentence.textContent) sentence.textContent = "Asking why…";
    keepFocus(root, drawAll);
    walk.drawn();
    if (!why && seen !== known) storySoon();
  }

  function drawAll() {
    const opened = seen.block?.opened;
    const key = opened ? (state.key ?? seen.first + most(opened.pattern)) : null;
    drawWords(words, seen, {
      head: opened ? state.head : null,
      key,
      follow(at) {
        Object.assign(state, { position: at === seen.tokens.length - 1 ? null : at, key: null });
        ask();
      },
      pair: pairWith,
    });
    drawRiver(river, seen, act);
    if (opened) {
      const { layer, patterns } = seen.block;
      headsTitle.textContent = `The ${patterns.length} heads of layer ${layer}`;
      drawHeads(heads, seen, {
        ...act,
        head: state.head,
        choose: (head) => choose(layer, head),
      });
      drawPair(pair, seen, key, pairWith);
    }
    details.update(seen);
    drawBars(seen);
    drawOffs();
  }

  const most = (row) => row.indexOf(Math.max(...row));

  function pairWith(key) {
    state.key = key;
    keepFocus(root, drawAll);
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

  /** Put a token behind the word that is followed: it is the last one then. */
  function append(token) {
    const cut = state.position !== null;
    const before = cut ? textUpTo(seen) : promptText("look");
    Object.assign(state, { position: null, key: null });
    setPrompt(before + token);
  }

  /** Draw a token by the odds that are shown, and append it. */
  async function drawToken() {
    if (!seen) return;
    try {
      await drawBy(Math.random());
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
    }
  }

  /** @param {number} lot from 0 to 1 */
  async function drawBy(lot) {
    let from = seen;
    let at = drawnOf(from, lot);
    for (const k of [MANY, seen.plain.kept]) {
      if (at !== null) break;
      const more = { ...asked(), lens: false, k: Math.min(k, seen.plain.kept) };
      from = (await post("/api/look/inside", more)).result;
      at = drawnOf(from, lot);
    }
    const drawn = from.next_texts[at ?? 0];
    if (drawn !== null) append(drawn);
  }

  onPrompt(
    debounce(() => {
      Object.assign(state, { position: null, key: null }); // what was followed may be gone
      ask();
    }, TYPING),
  );
  document.addEventListener("themechange", () => seen && draw(seen));
  let model = null;
  onModels(() => {
    if (chosenModel() === model) return;
    model = chosenModel();
    Object.assign(state, { position: null, layer: null, head: 0, key: null, chosen: false });
    state.off.clear();
    why = null;
    ask();
  });
  return {
    shown() {
      shown = true;
      if (model) ask();
    },
  };
}

/** The prompt down to the token that is followed. */
function textUpTo(seen) {
  // White space is one character when it is made visible too.
  const before = seen.tokens.slice(0, seen.position + 1).join("");
  const prompt = promptText("look");
  return visible(prompt).startsWith(before) ? prompt.slice(0, before.length) : prompt;
}

/** "head:3.1" in words; layers and heads count from 0. */
function partName(part) {
  const [kind, where] = part.split(":");
  return kind === "head" || kind === "neuron" ? `${kind} ${where}` : `${kind} of layer ${where}`;
}
