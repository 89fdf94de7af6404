// The prompt that Write and Look inside share: it stands in the address, and outlives a reload.

import { readAddress, writeAddress } from "./address.js";
import { debounce } from "./dom.js";
import { session } from "./storage.js";

/** What each tab opens on, until somebody has a prompt: a text that goes on, a head that tells. */
const FIRST = {
  write: "Once upon a time, there was a little girl",
  look: "The capital of Spain is",
};

const SETTLED = 250; // ms without a key before the address is written: browsers count its changes
const listeners = new Set();
let tab = "";
let chosen = readAddress().text ?? session.read("prompt"); // null: nobody has chosen one

/** The prompt of all tabs, or what this one opens on. */
export const promptText = (of) => chosen ?? FIRST[of];

function keep() {
  if (tab) writeAddress({ tab, text: chosen ?? "" });
  if (chosen !== null) session.write("prompt", chosen);
}
const keepSoon = debounce(keep, SETTLED);
addEventListener("pagehide", keep);

/**
 * Change the prompt for all tabs.
 * @param {string} value @param {number | null} [from] the position that it is looked at from; null
 *   is the last
 */
export function setPrompt(value, from = null) {
  if (value === chosen && from === null) return;
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
  onPrompt((text) => {
    if (field.value !== text) field.value = text;
  });
}
