// The list of conversations: open, begin, delete, export.

import { h, replace } from "../dom.js";
import { titleOf, toJson, toMarkdown } from "./conversation.js";
import { allTalks, forgetTalk } from "./history.js";

/** Give a text to the browser as a file. */
function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const fileName = (talk) =>
  titleOf(talk)
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "");

/**
 * @param {{open: (talk: any) => void, begin: () => void, gone: () => void, current: () => any}} act
 * @returns {{element: HTMLElement, draw: () => void}}
 */
export function makeTalkList(act) {
  const rows = h("ul", { class: "talks" });
  const few = h("p", { class: "note", text: "Conversations are kept in this browser." });
  const wide = matchMedia("(min-width: 64em)").matches;
  const exports = h(
    "div",
    { class: "row exports" },
    h("span", { class: "note", text: "Export:" }),
    h("button", {
      type: "button",
      class: "quiet",
      text: "Markdown",
      "aria-label": "Export as Markdown",
      onclick: () => download(`${fileName(act.current())}.md`, toMarkdown(act.current())),
    }),
    h("button", {
      type: "button",
      class: "quiet",
      text: "JSON",
      "aria-label": "Export as JSON",
      onclick: () => download(`${fileName(act.current())}.jsonl`, toJson(act.current())),
    }),
  );
  const element = h(
    "details",
    { class: "card talk-list", open: wide },
    h("summary", { text: "Conversations" }),
    h("button", { type: "button", class: "begin", text: "New chat", onclick: act.begin }),
    rows,
    exports,
    few,
  );

  function row(talk) {
    const current = talk.id === act.current().id;
    const forget = h("button", {
      type: "button",
      class: "quiet",
      text: "×",
      "aria-label": `Delete ${titleOf(talk)}`,
    });
    // Asked once more, for it does not come back.
    forget.addEventListener("click", () => {
      if (forget.textContent === "×") forget.textContent = "Delete?";
      else {
        forgetTalk(talk);
        if (current) act.gone();
        else draw();
      }
    });
    forget.addEventListener("blur", () => {
      forget.textContent = "×";
    });
    return h(
      "li",
      { class: current ? "current" : "" },
      h("button", {
        type: "button",
        class: "quiet title",
        text: titleOf(talk),
        "aria-current": current ? "true" : null,
        onclick: () => act.open(talk),
      }),
      forget,
    );
  }

  function draw() {
    replace(rows, allTalks().map(row));
    exports.hidden = !act.current().last;
  }
  return { element, draw };
}
