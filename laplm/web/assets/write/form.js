// The form of the Write tab, and what is read below it.

import { freshId, h, percent } from "../dom.js";
import { exampleChips, texts } from "../examples.js";
import { makeOffsNote } from "../look/switched-off.js";
import { bindPrompt } from "../prompt.js";
import { SURPRISES } from "./sample.js";

/** The elements of the tab that are spoken of later. */
export function makeParts() {
  const promptId = freshId();
  const field = h("textarea", { id: promptId, rows: 3, spellcheck: "false" });
  bindPrompt(field, "write");
  return {
    promptId,
    field,
    many: h("button", { type: "button", text: "Ten samples" }),
    stop: h("button", { type: "button", text: "Stop", disabled: true }),
    undo: h("button", { type: "button", text: "Undo", disabled: true }),
    offs: makeOffsNote("here the whole model writes"),
    limit: h("p", { class: "status limit", role: "status" }),
    error: h("p", { class: "problem", role: "alert", hidden: true }),
    status: h("p", { class: "status", role: "status" }),
    result: h("div", { class: "samples" }),
    legend: h(
      "p",
      { class: "legend", hidden: true },
      "Tinted words surprised the model:",
      SURPRISES.map((p, i) =>
        h("span", {
          class: `key surprise${i + 1}`,
          text: `under ${percent(p).replace(".0", "")}`,
        }),
      ),
    ),
    // Tokens fly by; what is read out is the whole text, once it is there.
    spoken: h("p", { class: "unseen", "aria-live": "polite" }),
  };
}

/** The form itself. @param {() => void} start */
export function makeForm(parts, ghost, settings, start) {
  const form = h(
    "form",
    { class: "card form" },
    h(
      "div",
      { class: "field wide" },
      h("label", { for: parts.promptId, text: "Prompt" }),
      ghost.element,
    ),
    h(
      "div",
      { class: "row" },
      h("button", { class: "main", type: "submit", text: "Write" }),
      parts.many,
      parts.stop,
      parts.undo,
      h("span", { class: "note", text: "Ctrl + Enter writes" }),
    ),
    parts.error,
    parts.offs,
    settings.element,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  parts.field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    start();
  });
  return form;
}

/** All of the tab. @param {(text: string) => void} take an example */
export const layOut = (parts, form, panel, take) => [
  exampleChips(texts, take),
  h(
    "div",
    { class: "write-grid" },
    h("div", { class: "write-text" }, form, parts.status, parts.result, parts.limit, parts.legend),
    panel.element,
  ),
  parts.spoken,
];
