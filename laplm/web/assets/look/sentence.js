// The sentence on top: how this prompt comes to its next token, with its numbers. A head that it
// names can be opened.

import { h, replace } from "../dom.js";

/** White space that opens a token is how models write words, and nothing a reader looks for. */
export const plainToken = (label) => label.replace(/^·/, "") || label;

/** A token of a text in quotes, with its position where the text has that word several times. */
export function namedToken(tokens, at) {
  const word = plainToken(tokens[at]);
  const several = tokens.filter((label) => plainToken(label) === word).length > 1;
  return `“${tokens[at]}”${several ? ` (position ${at})` : ""}`;
}
// Percentages as everywhere on this page: with a space.
const plain = (sentence) => sentence.replaceAll("“·", "“").replaceAll(/(\d)%/g, "$1 %");

/**
 * @param {HTMLElement} root @param {string} sentence of `laplm look why`
 * @param {(layer: number, head: number) => void} open
 */
export function drawSentence(root, sentence, open) {
  replace(
    root,
    plain(sentence)
      .split(/(head \d+\.\d+|\d+(?:\.\d+)?\s?%)/)
      .filter(Boolean)
      .map((piece) => {
        const head = /^head (\d+)\.(\d+)$/.exec(piece);
        if (!head) return piece.endsWith("%") ? h("b", { text: piece }) : piece;
        return h("button", {
          type: "button",
          class: "link",
          text: piece,
          "data-key": "sentence-head",
          onclick: () => open(Number(head[1]), Number(head[2])),
        });
      }),
  );
}
