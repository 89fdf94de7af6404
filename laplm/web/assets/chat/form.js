// The field of the Chat tab in which one asks, and the places around it.

import { freshId, h } from "../dom.js";
import { makeOffsNote } from "../look/switched-off.js";
import { session } from "../storage.js";

/** The elements of the tab that are spoken of later. */
export function makeParts() {
  const id = freshId();
  const field = h("textarea", { id, rows: 2, placeholder: "Ask something" });
  field.value = session.read("draft") ?? "";
  return {
    id,
    field,
    stop: h("button", { type: "button", text: "Stop", disabled: true }),
    offs: makeOffsNote("here the whole model answers"),
    error: h("p", { class: "problem", role: "alert", hidden: true }),
    said: h("div", { class: "messages" }),
    spoken: h("p", { class: "unseen", "aria-live": "polite" }),
  };
}

/** @param {(text: string) => void} send what was typed; what is not sent yet outlives a reload */
export function makeComposer({ id, field, stop, offs, error }, settings, send) {
  const form = h(
    "form",
    { class: "card form composer" },
    h("div", { class: "field wide" }, h("label", { for: id, text: "Message" }), field),
    h(
      "div",
      { class: "row" },
      h("button", { class: "main", type: "submit", text: "Send" }),
      stop,
      h("span", { class: "note", text: "Enter sends, Shift + Enter begins a line" }),
    ),
    error,
    offs,
    settings.element,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    const text = field.value;
    field.value = "";
    session.write("draft", "");
    send(text);
  });
  field.addEventListener("input", () => session.write("draft", field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  return form;
}
