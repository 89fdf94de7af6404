// A message's text as elements: paragraphs, blocks of code, `code` and **bold**, as models write
// them. Only elements are made, never markup, so a text cannot become a part of the page.

import { h } from "../dom.js";

const inline = (text) =>
  text
    .split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)
    .filter(Boolean)
    .map((piece) => {
      if (/^`[^`]+`$/.test(piece)) return h("code", { text: piece.slice(1, -1) });
      if (/^\*\*.+\*\*$/.test(piece)) return h("strong", { text: piece.slice(2, -2) });
      return piece;
    });

/** @returns {HTMLElement[]} */
export function textElements(text) {
  // An odd piece is a block of code: its first line names the language.
  return text.split(/```/).flatMap((piece, i) => {
    if (i % 2)
      return [h("pre", { tabindex: "0" }, h("code", { text: piece.replace(/^\w*\n/, "") }))];
    return piece
      .split(/\n{2,}/)
      .filter((each) => each.trim())
      .map((each) => h("p", {}, inline(each.trim())));
  });
}
