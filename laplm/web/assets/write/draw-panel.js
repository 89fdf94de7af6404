// Beside the text: the bars of the token that is being drawn, or of the one that was clicked.

import { makeProbabilityBars } from "../bars.js";
import { h, visible } from "../dom.js";

/** A token and what else it could have been, as items for bars. */
export function itemsOf(token) {
  const others = token.others.some((other) => other.id === token.id)
    ? token.others
    : [...token.others, token];
  return others.map((other) => ({
    label: token.ends && other.id === token.id ? "the end" : visible(other.text),
    p: Math.exp(other.logprob),
    own: other.id === token.id,
    takes: true,
    token: other,
  }));
}

const DOT = "A token is a word or a piece of one; · stands for the space before it.";
const nameOf = (token) => (token.ends ? "the end of the text" : `“${visible(token.text)}”`);

/** @returns {{element: HTMLElement, drawn: (token: any) => void, ask: (token: any, take:
 *   (other: any) => void) => void, clear: () => void}} */
export function makeDrawPanel() {
  let taken = null;
  const title = h("h3", { text: "The next token" });
  const note = h("p", { class: "note" });
  const bars = makeProbabilityBars("What it could have been", (item) => taken?.(item.token));
  const element = h(
    "aside",
    { class: "card draws", "aria-label": "The token that is drawn", hidden: true },
    title,
    bars.element,
    note,
  );

  function show(token, words, take) {
    taken = take;
    element.hidden = false;
    title.textContent = words;
    bars.update(itemsOf(token).map((item) => ({ ...item, takes: Boolean(take) })));
    note.textContent = take
      ? "Choose one to go on from it. These are the model’s own probabilities, before " +
        `temperature, top-k and top-p. ${DOT}`
      : `The model gives every token a probability, and one is drawn. ${DOT}`;
  }
  return {
    element,
    drawn: (token) => show(token, `Drawn: ${nameOf(token)}`, null),
    ask: (token, take) => show(token, `In place of ${nameOf(token)}`, take),
    clear() {
      element.hidden = true;
    },
  };
}
