// How a chat model is asked. What is left empty is as the model's makers say.

import { freshId, h, numberField } from "../dom.js";
import { foldedSettings } from "../folded.js";

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
  const before = h(
    "div",
    { class: "field wide" },
    h("label", { for: id, text: "System prompt" }),
    system,
  );
  const element = foldedSettings("System prompt and settings", Object.values(fields), { before });
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
