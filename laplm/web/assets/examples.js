// Prompts to begin with: texts that any model goes on with, and questions for one that answers.

import { h } from "./dom.js";

export const TEXTS = [
  "The capital of Spain is",
  "Once upon a time, there was a little girl",
  "A baby cat is called a",
];

export const QUESTIONS = [
  "Why is the sky blue?",
  "Write two lines about the sea.",
  "What is rain?",
];

/** Chips, each a prompt to take. */
export const exampleChips = (prompts, take) =>
  h(
    "div",
    { class: "examples", role: "group", "aria-label": "Examples" },
    prompts.map((text) =>
      h("button", { type: "button", class: "example", text, onclick: () => take(text) }),
    ),
  );
