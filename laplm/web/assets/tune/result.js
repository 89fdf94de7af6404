// What a run has made: its name, where it is used, what it is handed on as.

import { patch, post } from "../api.js";
import { bytes, freshId, h, replace } from "../dom.js";
import { documentOpening } from "../examples.js";
import { chooseModel, chosenModel, entryOf, refreshModels } from "../models-list.js";
import { setPrompt } from "../prompt.js";
import { showTab } from "../tabs.js";

/** What the model of a run is asked for by. */
export const modelOf = (entry) => entry.model_name ?? `run:${entry.id}`;

const path = (entry, verb) => `/api/tune/${encodeURIComponent(entry.id)}${verb}`;

/** Go to another tab with what a run has made. */
function useButton(entry, text, writes) {
  return h("button", {
    type: "button",
    class: writes ? "main" : "",
    text,
    onclick: async () => {
      const name = modelOf(entry());
      await refreshModels();
      chooseModel(name);
      // It begins with what it has learnt to go on with.
      const opening = documentOpening({ asks: false });
      if (opening !== null) setPrompt(opening);
      if (!writes) showTab("look");
      else showTab(entryOf(name)?.chat ? "chat" : "write", true);
    },
  });
}

function exportButton(entry, place, fail) {
  const button = h("button", { type: "button", text: "Export for Ollama" });
  button.addEventListener("click", async () => {
    button.disabled = true;
    replace(place, h("p", { class: "note", text: "Writing a GGUF file…" }));
    try {
      const done = await post(path(entry(), "/export"), {});
      replace(
        place,
        h("p", {}, "Written: ", h("code", { text: done.path }), ` (${bytes(done.size_bytes)})`),
        h("p", {}, "In a terminal: ", h("code", { text: done.command })),
      );
    } catch (problem) {
      replace(place);
      fail(problem);
    }
    button.disabled = false;
  });
  return button;
}

/** Chat or write with it, look inside, export it. @returns {HTMLElement[]} */
export function resultButtons(entry, place, fail) {
  // Tuned on conversations, it chats, whether or not its model did.
  const chats = entry().asks || entryOf(entry().model)?.chat;
  return [
    useButton(entry, chats ? "Chat with it" : "Write with it", true),
    useButton(entry, "Look inside", false),
    exportButton(entry, place, fail),
  ];
}

/**
 * The name of a result, which can be another one.
 * @param {() => any} entry @param {(entry: any) => void} renamed @param {(e: Error) => void} fail
 */
export function nameForm(entry, renamed, fail) {
  const id = freshId();
  const input = h("input", { type: "text", id, maxlength: 64, value: entry().model_name ?? "" });
  const rename = async () => {
    const before = modelOf(entry());
    const used = chosenModel() === before;
    try {
      const now = await patch(path(entry(), ""), { model_name: input.value });
      renamed(now);
      await refreshModels();
      if (used) chooseModel(modelOf(now));
    } catch (problem) {
      fail(problem);
    }
  };
  return h(
    "form",
    {
      class: "row name",
      onsubmit: (event) => {
        event.preventDefault();
        rename();
      },
    },
    h("label", { for: id, text: "Name" }),
    input,
    h("button", { type: "submit", class: "quiet", text: "Rename" }),
  );
}
