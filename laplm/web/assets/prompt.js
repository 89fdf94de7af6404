// The prompt that Write and Look inside share: it stands in the address, and outlives a reload.
// What a model wrote is kept as the tokens that it wrote: the same text may be other tokens.

import { readAddress, writeAddress } from "./address.js";
import { debounce } from "./dom.js";
import { documentOpening } from "./examples.js";
import { chosenModel, onModels } from "./models-list.js";
import { session } from "./storage.js";

/** What each tab opens on, until somebody has a prompt: a text that goes on, a head that tells. */
const FIRST = {
  write: "Once upon a time, there was a little girl",
  look: "The capital of Spain is",
};

const SETTLED = 250; // ms without a key before the address is written: browsers count its changes
const listeners = new Set();
let tab = "";
let chosen = readAddress().text ?? session.read("prompt") ?? null; // null: nobody has chosen one
/** @type {{text: string, ids: number[], context: number, model: string} | null} */
let written = session.read("prompt-tokens") ?? null;

/** The prompt of all tabs, or what this one opens on. */
export const promptText = (of) => chosen ?? documentOpening({ asks: false }) ?? FIRST[of];

/**
 * The tokens that the prompt is, where the chosen model has written them, and how many of them are
 * a conversation that comes before its text; null where it is a text that somebody typed.
 */
export const promptTokens = () =>
  written?.text === chosen && written.model === chosenModel() ? written : null;

function keep() {
  if (tab) writeAddress({ tab, text: chosen ?? "" });
  if (chosen === null) return;
  session.write("prompt", chosen);
  session.write("prompt-tokens", written?.text === chosen ? written : null);
}
const keepSoon = debounce(keep, SETTLED);
addEventListener("pagehide", keep);

/**
 * Change the prompt for all tabs.
 * @param {string} value @param {number | null} [from] the position that it is looked at from; null
 *   is the last
 * @param {{ids: number[], context: number, model: string} | null} [tokens] that a model wrote it as
 */
export function setPrompt(value, from = null, tokens = null) {
  if (value === chosen && from === null && !tokens) return;
  if (value !== chosen || tokens) written = tokens && { ...tokens, text: value };
  chosen = value;
  keepSoon();
  listeners.forEach((run) => run(chosen, from));
}

/** Call `run` with the prompt, and the position to look from, whenever it changes. */
export const onPrompt = (run) => listeners.add(run);

/** The tab that the address names. */
export function addressTab(name) {
  tab = name;
  keep();
}

/** Show the prompt in a field of a tab, and take from it what is typed. */
export function bindPrompt(field, of) {
  field.value = promptText(of);
  field.addEventListener("input", () => setPrompt(field.value));
  const show = () => {
    const text = promptText(of);
    if (field.value !== text) field.value = text;
  };
  onPrompt(show);
  onModels(show); // while nobody has chosen one, it is one of the model's
}
