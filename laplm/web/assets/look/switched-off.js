// The parts that are switched off in Look inside. They count there only, which Write and Chat say.

import { h } from "../dom.js";

/** @type {Set<string>} "head:3.1", "attention:2", "feed-forward:0", "neuron:4.17" */
const parts = new Set();
/** @type {(() => void)[]} */
const notes = [];

/** @type {ReadonlySet<string>} the parts; `togglePart` and `allOn` change them. */
export const switchedOff = parts;

const drawNotes = () => notes.forEach((draw) => draw());

/** Switch a part off, or on again. @param {string} part */
export function togglePart(part) {
  if (!parts.delete(part)) parts.add(part);
  drawNotes();
}

export function allOn() {
  parts.clear();
  drawNotes();
}

/** A part in words; layers and heads count from 0. */
function partName(part) {
  const [kind, where] = part.split(":");
  return kind === "head" || kind === "neuron" ? `${kind} ${where}` : `${kind} of layer ${where}`;
}

/** All of them in words. */
export const offNames = () => [...parts].map(partName).join(", ");

/**
 * The line of another tab that says so, while parts are off.
 * @param {string} here what the whole model does on that tab
 */
export function makeOffsNote(here) {
  const note = h("p", { class: "note offs-there", hidden: true });
  notes.push(() => {
    note.hidden = !parts.size;
    const off = `Switched off in Look inside: ${offNames()}.`;
    note.textContent = `${off} That counts there only: ${here}.`;
  });
  return note;
}
