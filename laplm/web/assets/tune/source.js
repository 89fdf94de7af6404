// The text to learn from: pasted, dropped, chosen, or an example.

import { bytes, freshId, h } from "../dom.js";
import { exampleTexts } from "./example-texts.js";

const MOST_BYTES = 50_000_000;
const PASTED = "pasted.txt";

function dropTarget(element, take) {
  for (const type of ["dragenter", "dragover"]) {
    element.addEventListener(type, (event) => {
      event.preventDefault();
      element.classList.add("over");
    });
  }
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    take(event.dataTransfer.files[0] ?? null);
  });
}

/**
 * @param {(problem: Error | null) => void} say what is wrong with what was taken
 * @param {(name: string) => void} named called with the name of what was taken
 * @returns {{element: HTMLElement, taken: () => Promise<{name: string, content: string} | null>}}
 */
export function textSource(say, named) {
  let file = null;
  let name = PASTED;
  const [textId, fileId] = [freshId(), freshId()];
  const text = h("textarea", {
    id: textId,
    rows: 5,
    placeholder: "Paste a text here: stories, notes, verses …",
  });
  const input = h("input", { type: "file", id: fileId, accept: ".txt,.jsonl,.csv,.md,text/plain" });
  const note = h("p", { class: "note", role: "status" });
  const take = (chosen) => {
    say(null);
    file = chosen;
    note.textContent = file ? `${file.name}, ${bytes(file.size)}` : "";
    if (!file) return;
    text.value = "";
    named(file.name);
    if (file.size > MOST_BYTES) {
      const [has, most] = [bytes(file.size), bytes(MOST_BYTES)];
      const instead = "Use laplm tune in a terminal.";
      say(
        new Error(`${file.name} has ${has}; from a page at most ${most} can be given. ${instead}`),
      );
      file = null;
    }
  };
  const write = (of, content) => {
    say(null);
    [file, name, input.value] = [null, of, ""];
    if (content !== undefined) text.value = content;
    note.textContent = "";
    named(of);
  };
  text.addEventListener("input", () => write(PASTED));
  input.addEventListener("change", () => take(input.files[0] ?? null));
  const element = h(
    "div",
    { class: "drop" },
    h("label", { for: textId, text: "The text to learn from" }),
    text,
    h(
      "div",
      { class: "row" },
      h("label", { for: fileId, text: "or a file, dropped here or chosen:" }),
      input,
    ),
    h(
      "div",
      { class: "examples", role: "group", "aria-label": "Example texts" },
      exampleTexts.map((each) =>
        h("button", {
          type: "button",
          class: "example",
          text: each.title,
          onclick: () => write(each.file, each.text),
        }),
      ),
    ),
    note,
    h("p", {
      class: "note",
      text:
        ".txt (documents separated by <|endoftext|>), .jsonl or .csv. It stays " +
        "on this machine.",
    }),
  );
  dropTarget(element, take);
  return {
    element,
    taken: async () => {
      if (file) return { name: file.name, content: await file.text() };
      return text.value.trim() ? { name, content: text.value } : null;
    },
  };
}
