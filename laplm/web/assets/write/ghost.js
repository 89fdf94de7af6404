// Words that the model suggests behind the caret, in grey, while one types: Tab takes them, Escape
// lets them go. Without words in grey both keys do what they always do.

import { post } from "../api.js";
import { debounce, h } from "../dom.js";
import { chosenModel } from "../models-list.js";

const WAIT = 500; // ms without a key before the model is asked
const TOKENS = 6;

/**
 * @param {HTMLTextAreaElement} field
 * @param {() => boolean} wanted whether to suggest anything now
 * @returns {{element: HTMLElement, clear: () => void}} the field with what stands behind it
 */
export function withGhost(field, wanted) {
  let words = "";
  let asking = null;
  const typed = h("span", { class: "typed" });
  const grey = h("span", { class: "grey" });
  const mirror = h("div", { class: "mirror", "aria-hidden": "true" }, typed, grey);
  const said = h("span", { class: "unseen", role: "status" });

  function show(text) {
    words = text;
    typed.textContent = text ? field.value : "";
    grey.textContent = text;
    said.textContent = text ? `Suggestion: ${text.trim()}. Tab takes it.` : "";
    mirror.scrollTop = field.scrollTop;
  }

  function clear() {
    asking?.abort();
    show("");
  }

  const ask = debounce(async () => {
    const text = field.value;
    const atEnd = field.selectionStart === text.length;
    if (!wanted() || !atEnd || !text.trim() || document.activeElement !== field) return;
    asking = new AbortController();
    const body = { model: chosenModel(), prompt: text, max_tokens: TOKENS, temperature: 0 };
    try {
      const answer = await post("/v1/completions", body, asking.signal);
      if (field.value === text) show(answer.choices[0].text.split("\n")[0].trimEnd());
    } catch {
      show(""); // a suggestion that fails is none; what one asks for oneself tells why
    }
  }, WAIT);

  field.addEventListener("input", () => {
    clear();
    ask();
  });
  field.addEventListener("blur", clear);
  field.addEventListener("scroll", () => {
    mirror.scrollTop = field.scrollTop;
  });
  field.addEventListener("keydown", (event) => {
    if (!words || event.shiftKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") clear();
    else if (event.key === "Tab") {
      event.preventDefault();
      field.setRangeText(words, field.value.length, field.value.length, "end");
      clear();
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
  });
  return { element: h("div", { class: "editor" }, mirror, field, said), clear };
}
