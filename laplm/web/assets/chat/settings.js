// How a chat model is asked: folded until somebody wants to know. What is left empty is as the
// model's makers say.

import { freshId, h, numberField } from "../dom.js";

/**
 * @param {(system: string) => void} changed called with the system prompt that is typed
 * @returns {{element: HTMLElement, values: () => any, showSystem: (system: string) => void}}
 */
export function makeChatSettings(changed) {
  const id = freshId();
  const system = h("textarea", { id, rows: 2, placeholder: "You are a helpful assistant." });
  system.addEventListener("input", () => changed(system.value));
  const own = { placeholder: "the model’s own" };
  const temperature = numberField({ label: "Temperature", min: 0, max: 2, step: 0.05, ...own });
  const topP = numberField({ label: "Top-p", min: 0.05, max: 1, step: 0.05, ...own });
  const length = numberField({ label: "Tokens at most", min: 1, max: 8192, value: 512 });
  const fields = { temperature, top_p: topP, max_tokens: length };
  const element = h(
    "details",
    { class: "settings" },
    h("summary", { text: "System prompt and settings" }),
    h("div", { class: "field wide" }, h("label", { for: id, text: "System prompt" }), system),
    h(
      "div",
      { class: "controls" },
      Object.values(fields).map((field) => field.element),
    ),
  );
  return {
    element,
    values: () =>
      Object.fromEntries(
        Object.entries(fields)
          .filter(([, field]) => field.input.value !== "")
          .map(([name, field]) => [name, Number(field.input.value)]),
      ),
    showSystem(text) {
      system.value = text;
    },
  };
}
