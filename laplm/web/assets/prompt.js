// The prompt that Write and Look inside share: it stands in the address, and outlives a reload.

import { readAddress, writeAddress } from "./address.js";
import { debounce } from "./dom.js";
import { session } from "./storage.js";

/** What the page opens on. */
export const FIRST = "The capital of Spain is";

const SETTLED = 250; // ms without a key before the address is written: browsers count its changes
const listeners = new Set();
let tab = "";
let text = readAddress().text ?? session.read("prompt") ?? FIRST;

export const promptText = () => text;

function keep() {
  if (tab) writeAddress({ tab, text: text === FIRST ? "" : text });
  session.write("prompt", text);
}
const keepSoon = debounce(keep, SETTLED);
addEventListener("pagehide", keep);

/** Change the prompt for all tabs. */
export function setPrompt(value) {
  if (value === text) return;
  text = value;
  keepSoon();
  listeners.forEach((run) => run(text));
}

/** Call `run` with the prompt whenever it changes. */
export const onPrompt = (run) => listeners.add(run);

/** The tab that the address names. */
export function addressTab(name) {
  tab = name;
  keep();
}

/** Show the prompt in a field, and take from it what is typed. */
export function bindPrompt(field) {
  field.value = text;
  field.addEventListener("input", () => setPrompt(field.value));
  onPrompt(() => {
    if (field.value !== text) field.value = text;
  });
}
