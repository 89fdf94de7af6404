// The Write tab: a prompt goes on, token by token; every token can be questioned and replaced, and
// what was written kept, continued or undone.

import { aborted } from "../api.js";
import { copyText } from "../clipboard.js";
import { h, looseSpace, replace } from "../dom.js";
import { chosenModel, entryOf, onModels, refreshModels } from "../models-list.js";
import { Opening, OPENING_TOKENS } from "../opening.js";
import { promptText, setPrompt } from "../prompt.js";
import { session } from "../storage.js";
import { showTab } from "../tabs.js";
import { makeDrawPanel } from "./draw-panel.js";
import { layOut, makeForm, makeParts } from "./form.js";
import { withGhost } from "./ghost.js";
import { makeSample, textOf } from "./sample.js";
import { makeSettings } from "./settings.js";
import { limitOf } from "./limit.js";
import { continuations, paced } from "./stream.js";
import { Undo } from "./undo.js";

const MANY = 10;

const emptySample = (prompt, title = "") => ({ title, prompt, promptIds: null, tokens: [] });

class WriteTab {
  /** @param {HTMLElement} root */
  constructor(root) {
    // What is on the screen, as data: what is undone, and what a reload brings back.
    this.state = { prompt: "", samples: [], status: "", model: null };
    this.running = null;
    this.asked = null; // the place of the token whose alternatives are shown
    this.model = null; // for which it is drawn
    this.opening = new Opening(root);
    this.parts = makeParts();
    this.undo = new Undo(this.parts.undo);
    this.settings = makeSettings();
    this.panel = makeDrawPanel();
    const suggests = () => this.settings.suggests() && !this.running;
    this.ghost = withGhost(this.parts.field, suggests);
    const form = makeForm(this.parts, this.ghost, this.settings, () => this.#start(1));
    const take = (text) => {
      setPrompt(text);
      this.#start(1);
    };
    root.append(...layOut(this.parts, form, this.panel, take));
    this.parts.many.addEventListener("click", () => this.#start(MANY));
    this.parts.stop.addEventListener("click", () => this.running?.abort());
    this.parts.undo.addEventListener("click", () => this.#undoLast());
    onModels(() => this.#modelChosen());
  }

  /** Another model goes on from a text, but its tokens and their odds are not that one's. */
  #modelChosen() {
    const before = this.model;
    this.model = chosenModel();
    if (before === null || before === this.model || !this.state.model) return;
    if (this.running) this.state.status = `${before}. Stopped.`;
    this.#halt();
    this.opening.end();
    this.ghost.clear();
    this.#draw();
  }

  /** Whether what is shown was written by a model that is not the chosen one. */
  get #foreign() {
    return this.state.model !== null && this.state.model !== chosenModel();
  }

  /** What a reload brings back; else something that writes itself. */
  open() {
    const kept = session.read("written");
    if (kept?.prompt !== promptText("write") || kept.model !== chosenModel()) {
      this.begin();
      return;
    }
    this.state = kept;
    this.#draw();
  }

  /** The prompt goes on by itself, to be seen. */
  begin() {
    if (this.state.samples.length) this.undo.remember(this.state);
    const prompt = promptText("write");
    if (!prompt.trim()) return;
    this.opening.begin();
    this.#write([emptySample(prompt)], prompt, { tokens: OPENING_TOKENS });
  }

  // --- keeping and undoing ---

  /** Remember how it is, so that it can be undone. */
  #remember() {
    this.undo.remember({ ...this.state, prompt: promptText("write") });
  }

  /** Give up what is being written, and what comes of it. */
  #halt() {
    const control = this.running;
    this.running = null;
    control?.abort();
    this.parts.stop.disabled = true;
    this.parts.result.removeAttribute("aria-busy");
  }

  #undoLast() {
    this.#halt();
    const last = this.undo.last();
    if (!last) return;
    this.state = last;
    setPrompt(last.prompt);
    this.#draw();
    this.#save();
  }

  #save() {
    session.write("written", {
      ...this.state,
      prompt: promptText("write"),
    });
  }

  // --- drawing ---

  /** All that the state says, drawn anew. */
  #draw() {
    const { state, parts, panel } = this;
    this.asked = null;
    const drawn = state.samples.map((data, i) =>
      makeSample(data, this.#actionsOf(data), (at) => {
        this.asked = at;
        const take = (other) => this.#take(i, at, other);
        panel.ask(data.tokens[at], this.#foreign ? null : take);
      }),
    );
    replace(
      parts.result,
      drawn.map((sample) => sample.element),
    );
    parts.result.classList.toggle("many", drawn.length > 1);
    parts.legend.hidden = !drawn.length;
    this.#drawStatus();
    panel.clear();
    return drawn;
  }

  #drawStatus() {
    const { samples, model, seed } = this.state;
    this.parts.limit.textContent = this.#foreign ? "" : (this.state.limit ?? "");
    if (this.#foreign && !samples.length) {
      replace(this.parts.status);
      return;
    }
    const other = this.#foreign ? `Written by ${model}, not by ${chosenModel()}. ` : "";
    replace(
      this.parts.status,
      other + this.state.status,
      seed === undefined ? null : this.#seedButton(seed),
    );
  }

  #seedButton(seed) {
    return h("button", {
      class: "link",
      type: "button",
      text: `seed ${seed}`,
      title: "Keep this seed",
      "aria-label": `Keep seed ${seed}`,
      onclick: () => this.settings.keepSeed(seed),
    });
  }

  #actionsOf(data) {
    const whole = () => data.prompt + textOf(data.tokens);
    const actions = [
      { name: "Keep", run: () => this.#keep(whole()) },
      { name: "Copy", run: () => this.#copy(whole()) },
    ];
    if (this.state.samples.length > 1 || this.#foreign) return actions;
    return [
      { name: "Continue", run: () => this.#goOn(data) },
      ...actions,
      { name: "Look inside", run: () => this.#look(data) },
    ];
  }

  /** Look inside at the tokens as they were written, from where the one asked about was said. */
  #look(data) {
    const { prompt, promptIds, tokens } = data;
    const kept = tokens.filter((token) => !token.ends).map((token) => token.id);
    const ids = promptIds && [...promptIds, ...kept];
    // With none asked about, it is where the model began to write: why it went on so.
    const at = this.asked ?? (kept.length ? 0 : null);
    const from = promptIds && at !== null ? promptIds.length + at - 1 : -1;
    const made = ids?.length ? { ids, context: 0, model: this.state.model } : null;
    setPrompt(prompt + textOf(tokens), from < 0 ? null : from, made);
    showTab("look");
  }

  #keep(text) {
    const { field } = this.parts;
    this.#remember();
    const status = "Kept: it is the prompt now.";
    this.state = { prompt: text, samples: [], status, model: chosenModel() };
    setPrompt(text);
    this.#draw();
    this.#save();
    field.focus();
    field.setSelectionRange(text.length, text.length);
    field.scrollTop = field.scrollHeight;
  }

  async #copy(text) {
    this.parts.status.textContent = (await copyText(text)) || "Copied.";
  }

  // --- writing ---

  /** Write `n` samples of the prompt. */
  #start(n) {
    this.#remember();
    const prompt = promptText("write");
    const samples = Array.from({ length: n }, (_, i) =>
      emptySample(prompt, n > 1 ? `sample ${i + 1}` : ""),
    );
    this.#write(samples, prompt, { typed: prompt });
  }

  /** Go on from the end of a sample; one that the model ended goes on from before its end. */
  #goOn(data) {
    this.#remember();
    const tokens = data.tokens.filter((token) => !token.ends);
    this.#writeOn({ ...data, tokens });
  }

  /** Go on from another token in one's place. */
  #take(i, at, other) {
    this.#remember();
    const data = this.state.samples[i];
    const { others } = data.tokens[at];
    this.#writeOn({
      ...data,
      title: "",
      tokens: [...data.tokens.slice(0, at), { ...other, others }],
    });
  }

  #writeOn(data) {
    const written = data.tokens.map((token) => token.id);
    this.#write([data], [...(data.promptIds ?? []), ...written]);
  }

  /**
   * @param {any[]} samples that are written on
   * @param {string | number[]} from their text or token ids so far
   * @param {{typed?: string, tokens?: number}} [how] the prompt as it was typed, if it is what
   *   goes on; how many tokens, if not as many as the settings say
   */
  async #write(samples, from, { typed = "", tokens } = {}) {
    const control = this.#begin(samples);
    const model = chosenModel();
    const asked = this.settings.values();
    if (tokens) asked.max_tokens = tokens;
    const loaded = entryOf(model)?.loaded;
    this.state.status = loaded ? `${model} is writing…` : `loading ${model} …`;
    const drawn = this.#draw();
    const begun = performance.now();
    const told = { count: 0, written: samples.map(() => 0), cut: [] };
    let ended = "";
    try {
      await this.#receive(
        { model, prompt: from, n: samples.length, ...asked },
        drawn,
        control,
        told,
      );
      if (!told.count) ended = " The model ended its text at once.";
    } catch (problem) {
      if (this.running !== control) return; // another one has begun
      ended = aborted(problem) ? " Stopped." : "";
      if (!aborted(problem)) this.#fail(problem.message, told.count);
    }
    if (this.running !== control) return;
    this.#halt();
    this.opening.end();
    if (!this.state.samples.length) return;
    if (!loaded) refreshModels(); // it is in memory now
    this.state.limit = limitOf(told, asked.max_tokens, !tokens);
    const said = `${model}.${ended}${looseSpace(typed)} `;
    this.#end(told.count, (performance.now() - begun) / 1000, said, asked.seed);
  }

  /** Give up what was being written, and make room for these. */
  #begin(samples) {
    this.#halt();
    const control = new AbortController();
    this.running = control;
    this.ghost.clear();
    this.state = { prompt: promptText("write"), samples, status: "", model: chosenModel() };
    this.parts.result.setAttribute("aria-busy", "true");
    this.parts.error.hidden = true;
    this.parts.stop.disabled = false;
    this.parts.spoken.textContent = "";
    return control;
  }

  /** The first token is there: it is loaded. */
  #saysItWrites() {
    this.state.status = `${this.state.model} is writing…`;
    this.#drawStatus();
  }

  /**
   * Add the tokens as they come.
   * @param {{count: number, written: number[], cut: number[]}} told how many there were, in all and
   *   of each sample; which of these stopped at a limit
   */
  async #receive(body, drawn, control, told) {
    const { samples } = this.state;
    const stream = paced(continuations(body, control.signal), () => this.opening.pace);
    for await (const { index, promptIds, token } of stream) {
      if (this.running !== control) return;
      samples[index].promptIds ??= promptIds;
      drawn[index].add(token);
      if (index === 0) this.panel.drawn(token);
      if (!told.count) this.#saysItWrites();
      told.count += 1;
      told.written[index] += 1;
      if (token.cut) told.cut.push(index);
    }
  }

  #end(count, seconds, said, seed) {
    const { state } = this;
    const speed = `${Math.round(count / seconds)} tokens/s`;
    state.status = `${count} tokens in ${seconds.toFixed(1)} s, ${speed}; ${said}`;
    state.seed = seed;
    this.#drawStatus();
    const texts = state.samples.map((sample) => textOf(sample.tokens));
    this.parts.spoken.textContent = texts.join("\n");
    this.#save();
  }

  /** Say next to the form why nothing (more) comes. */
  #fail(message, count) {
    this.parts.error.textContent = message;
    this.parts.error.hidden = false;
    if (count) return;
    // there is nothing to show but the reason
    this.state = { prompt: promptText("write"), samples: [], status: "", model: chosenModel() };
    this.#draw();
  }
}

/** @param {HTMLElement} root */
export function startWrite(root) {
  const tab = new WriteTab(root);
  let opened = false;
  return {
    shown(anew) {
      if (!entryOf(chosenModel())) return;
      if (anew) tab.begin();
      else if (!opened) tab.open();
      opened = true;
    },
  };
}
