// Prompts to begin with: texts that any model goes on with, and questions for one that answers. A
// result of tuning begins with the opening of a document that it was tuned on.

import { h, replace } from "./dom.js";
import { chosenModel, entryOf, onModels } from "./models-list.js";

const TEXTS = [
  "The capital of Spain is",
  "Once upon a time, there was a little girl",
  "A baby cat is called a",
];

const QUESTIONS = ["Why is the sky blue?", "Write two lines about the sea.", "What is rain?"];

/** How a document of the chosen model's tuning begins; null where it has none of this kind. */
export function documentOpening({ asks }) {
  const entry = entryOf(chosenModel());
  return entry?.opening && entry.asks === asks ? entry.opening : null;
}

const withOpening = (usual, kind) => () => [documentOpening(kind) ?? [], usual].flat();

/** Texts to go on from, and questions, for the model that is chosen now. */
export const texts = withOpening(TEXTS, { asks: false });
export const questions = withOpening(QUESTIONS, { asks: true });

/**
 * Chips, each a prompt to take.
 * @param {() => string[]} prompts @param {(text: string) => void} take
 */
export function exampleChips(prompts, take) {
  const element = h("div", { class: "examples", role: "group", "aria-label": "Examples" });
  const chip = (text) =>
    h("button", { type: "button", class: "example", text, title: text, onclick: () => take(text) });
  let drawn = "";
  const draw = () => {
    const now = prompts();
    if (drawn === (drawn = now.join("\0"))) return; // somebody may be on one of them
    replace(element, now.map(chip));
  };
  onModels(draw);
  draw();
  return element;
}
