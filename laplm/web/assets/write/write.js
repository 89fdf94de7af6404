// The Write tab: a prompt goes on, token by token; every token can be questioned and replaced, and
// what was written kept, continued or undone.

import { aborted } from "../api.js";
import { h, looseSpace, freshId, percent, replace } from "../dom.js";
import { exampleChips, TEXTS } from "../examples.js";
import { chosenModel, entryOf } from "../models-list.js";
import { bindPrompt, promptText, setPrompt } from "../prompt.js";
import { session } from "../storage.js";
import { showTab } from "../tabs.js";
import { makeDrawPanel } from "./draw-panel.js";
import { withGhost } from "./ghost.js";
import { makeSample, SURPRISES, textOf } from "./sample.js";
import { makeSettings } from "./settings.js";
import { continuations, paced } from "./stream.js";

const OPENING = { tokens: 40, pace: 110 }; // what is written by itself, and ms between two tokens
const MANY = 10;
const MOST_UNDONE = 30;

/** @param {HTMLElement} root */
export function startWrite(root) {
  // What is on the screen, as data: what is undone, and what a reload brings back.
  let state = { prompt: "", samples: [], status: "" };
  const before = [];
  let running = null;
  let pace = 0;
  let opened = false;

  const promptId = freshId();
  const field = h("textarea", { id: promptId, rows: 3, spellcheck: "false" });
  bindPrompt(field, "write");
  const settings = makeSettings();
  const ghost = withGhost(field, () => settings.suggests() && !running);
  const go = h("button", { class: "main", type: "submit", text: "Write" });
  const many = h("button", { type: "button", text: "Ten samples", onclick: () => start(MANY) });
  const stop = h("button", { type: "button", text: "Stop", disabled: true });
  const undo = h("button", { type: "button", text: "Undo", disabled: true, onclick: undoLast });
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const status = h("p", { class: "status", role: "status" });
  const result = h("div", { class: "samples" });
  const legend = h(
    "p",
    { class: "legend", hidden: true },
    "Tinted words surprised the model:",
    SURPRISES.map((p, i) =>
      h("span", { class: `key surprise${i + 1}`, text: `under ${percent(p).replace(".0", "")}` }),
    ),
  );
  const panel = makeDrawPanel();
  // Tokens fly by; what is read out is the whole text, once it is there.
  const spoken = h("p", { class: "unseen", "aria-live": "polite" });
  const form = h(
    "form",
    { class: "card form" },
    h("div", { class: "field wide" }, h("label", { for: promptId, text: "Prompt" }), ghost.element),
    h(
      "div",
      { class: "row" },
      go,
      many,
      stop,
      undo,
      h("span", { class: "note", text: "Ctrl + Enter writes" }),
    ),
    error,
    settings.element,
  );
  root.append(
    exampleChips(TEXTS, (text) => {
      setPrompt(text);
      start(1);
    }),
    h(
      "div",
      { class: "write-grid" },
      h("div", { class: "write-text" }, form, status, result, legend),
      panel.element,
    ),
    spoken,
  );

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start(1);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    start(1);
  });
  stop.addEventListener("click", () => running?.abort());
  // Who does something wants to see the end of it, and not to watch it being written.
  for (const kind of ["pointerdown", "keydown"])
    root.addEventListener(kind, () => {
      pace = 0;
    });

  /** Remember how it is, so that it can be undone. */
  function remember() {
    before.push({ ...structuredClone(state), prompt: promptText("write") });
    if (before.length > MOST_UNDONE) before.shift();
    undo.disabled = false;
  }

  /** Give up what is being written, and what comes of it. */
  function halt() {
    const control = running;
    running = null;
    control?.abort();
    stop.disabled = true;
    result.removeAttribute("aria-busy");
  }

  function undoLast() {
    halt();
    const last = before.pop();
    undo.disabled = !before.length;
    if (!last) return;
    state = last;
    setPrompt(state.prompt);
    draw();
    save();
  }

  const save = () =>
    session.write("written", { ...state, prompt: promptText("write"), model: chosenModel() });

  /** All that the state says, drawn anew. */
  function draw() {
    const drawn = state.samples.map((data, i) =>
      makeSample(data, actionsOf(data), (at) => panel.ask(data.tokens[at], (o) => take(i, at, o))),
    );
    replace(
      result,
      drawn.map((sample) => sample.element),
    );
    result.classList.toggle("many", drawn.length > 1);
    legend.hidden = !drawn.length;
    replace(status, state.status, state.seed === undefined ? null : seedButton(state.seed));
    panel.clear();
    return drawn;
  }

  const seedButton = (seed) =>
    h("button", {
      class: "link",
      type: "button",
      text: `seed ${seed}`,
      title: "Keep this seed",
      "aria-label": `Keep seed ${seed}`,
      onclick: () => settings.keepSeed(seed),
    });

  function actionsOf(data) {
    const whole = () => data.prompt + textOf(data.tokens);
    const actions = [
      { name: "Keep", run: () => keep(whole()) },
      { name: "Copy", run: () => copy(whole()) },
    ];
    if (state.samples.length > 1) return actions;
    return [
      { name: "Continue", run: () => goOn(data) },
      ...actions,
      { name: "Look inside", run: () => look(whole()) },
    ];
  }

  function keep(text) {
    remember();
    state = { prompt: text, samples: [], status: "Kept: it is the prompt now." };
    setPrompt(text);
    draw();
    save();
    field.focus();
    field.setSelectionRange(text.length, text.length);
    field.scrollTop = field.scrollHeight;
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      status.textContent = "Copied.";
    } catch {
      status.textContent = "The browser does not allow to copy.";
    }
  }

  function look(text) {
    setPrompt(text);
    showTab("look");
  }

  /** Write `n` samples of the prompt. */
  function start(n) {
    remember();
    const prompt = promptText("write");
    const samples = Array.from({ length: n }, (_, i) => ({
      title: n > 1 ? `sample ${i + 1}` : "",
      prompt,
      promptIds: null,
      tokens: [],
    }));
    write(samples, prompt, { typed: prompt });
  }

  /** Go on from the end of a sample; one that the model ended goes on from before its end. */
  function goOn(data) {
    remember();
    const tokens = data.tokens.filter((token) => !token.ends);
    writeOn({ ...data, tokens });
  }

  /** Go on from another token in one's place. */
  function take(i, at, other) {
    remember();
    const data = state.samples[i];
    const { others } = data.tokens[at];
    writeOn({ ...data, title: "", tokens: [...data.tokens.slice(0, at), { ...other, others }] });
  }

  const writeOn = (data) =>
    write([data], [...(data.promptIds ?? []), ...data.tokens.map((token) => token.id)]);

  /**
   * @param {any[]} samples that are written on
   * @param {string | number[]} from their text or token ids so far
   * @param {{typed?: string, tokens?: number}} [how] the prompt as it was typed, if it is what
   *   goes on; how many tokens, if not as many as the settings say
   */
  async function write(samples, from, { typed = "", tokens } = {}) {
    halt();
    const control = new AbortController();
    running = control;
    ghost.clear();
    const model = chosenModel();
    const asked = settings.values();
    if (tokens) asked.max_tokens = tokens;
    state = { prompt: promptText("write"), samples, status: `${model} is writing…` };
    const drawn = draw();
    result.setAttribute("aria-busy", "true");
    error.hidden = true;
    stop.disabled = false;
    spoken.textContent = "";
    const begun = performance.now();
    let count = 0;
    let ended = "";
    try {
      const body = { model, prompt: from, n: samples.length, ...asked };
      const stream = paced(continuations(body, control.signal), () => pace);
      for await (const { index, promptIds, token } of stream) {
        if (running !== control) return;
        samples[index].promptIds ??= promptIds;
        drawn[index].add(token);
        if (index === 0) panel.drawn(token);
        count += 1;
      }
      if (!count) ended = " The model ended its text at once.";
    } catch (problem) {
      if (running !== control) return; // another one has begun
      ended = aborted(problem) ? " Stopped." : "";
      if (!aborted(problem)) fail(problem.message, count);
    }
    if (running !== control) return;
    halt();
    pace = 0;
    if (!state.samples.length) return;
    const seconds = (performance.now() - begun) / 1000;
    state.status =
      `${count} tokens in ${seconds.toFixed(1)} s, ${Math.round(count / seconds)} tokens/s; ` +
      `${model}.${ended}${looseSpace(typed)} `;
    state.seed = asked.seed;
    replace(status, state.status, seedButton(state.seed));
    spoken.textContent = samples.map((sample) => textOf(sample.tokens)).join("\n");
    save();
  }

  /** Say next to the form why nothing (more) comes. */
  function fail(message, count) {
    error.textContent = message;
    error.hidden = false;
    if (count) return;
    // there is nothing to show but the reason
    state = { prompt: promptText("write"), samples: [], status: "" };
    draw();
  }

  /** What a reload brings back; else something that writes itself, to be seen. */
  function open() {
    opened = true;
    const kept = session.read("written");
    if (kept?.prompt === promptText("write") && kept.model === chosenModel()) {
      state = kept;
      draw();
      return;
    }
    const prompt = promptText("write");
    if (!prompt.trim()) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    pace = calm ? 0 : OPENING.pace;
    const data = { title: "", prompt, promptIds: null, tokens: [] };
    write([data], prompt, { tokens: OPENING.tokens });
  }

  return {
    shown() {
      if (!opened && entryOf(chosenModel())) open();
    },
  };
}
