// One message with what can be done to it.

import { h, replace } from "../dom.js";
import { textElements } from "./text.js";

/**
 * @param {any} message
 * @param {{name: string, run: () => void}[]} actions
 * @param {{at: number, of: number, show: (at: number) => void}} place among those beside it
 * @returns {{element: HTMLElement, update: () => void}}
 */
export function makeMessage(message, actions, place) {
  const who = message.role === "user" ? "You" : "Model";
  const body = h("div", { class: "said" });
  const note = h("p", { class: "note" });
  const step = (to, sign, name) =>
    h("button", {
      type: "button",
      class: "quiet",
      text: sign,
      "aria-label": name,
      disabled: to < 0 || to >= place.of,
      onclick: () => place.show(to),
    });
  const others =
    place.of > 1
      ? h(
          "span",
          { class: "row siblings" },
          step(place.at - 1, "‹", "The one before"),
          h("span", { class: "note", text: `${place.at + 1} of ${place.of}` }),
          step(place.at + 1, "›", "The next one"),
        )
      : null;
  const buttons = actions.map(({ name, run }) =>
    h("button", { type: "button", class: "quiet", text: name, onclick: run }),
  );
  const element = h(
    "article",
    { class: `message ${message.role}`, "aria-label": who },
    h("h3", { class: "unseen", text: who }),
    body,
    note,
    h("div", { class: "row actions" }, others, buttons),
  );
  const update = () => {
    replace(body, textElements(message.text));
    note.textContent = message.note;
  };
  update();
  return { element, update };
}

/** A message that is being edited, in its place. */
export function makeEditor(message, done, cancel) {
  const field = h("textarea", { rows: 3, "aria-label": "Your message" });
  field.value = message.text;
  const form = h(
    "form",
    { class: "message user editing" },
    field,
    h(
      "div",
      { class: "row" },
      h("button", { class: "main", type: "submit", text: "Send" }),
      h("button", { type: "button", text: "Cancel", onclick: cancel }),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) done(field.value);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") cancel();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  return { element: form, focus: () => field.focus() };
}
