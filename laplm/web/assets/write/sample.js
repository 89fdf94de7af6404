// One continuation: its tokens as buttons, those that surprise tinted.

import { arrowKeys, h, percent, visible } from "../dom.js";

const SHOWN_PROMPT = 400; // characters, the last ones, that stand before what is written
const LONGEST_WORD = 18; // characters that a line of a phone holds

/** Below these a token surprises: the stronger the tint, the less likely it was. */
export const SURPRISES = [0.1, 0.02, 0.004];
const surprise = (p) => SURPRISES.filter((most) => p < most).length;

const lastWords = (prompt) => {
  const from = prompt.length - SHOWN_PROMPT;
  return from > 0 ? `…${prompt.slice(prompt.indexOf(" ", from) + 1 || from)}` : prompt;
};

/** The text of tokens, without the mark that ends it. */
export const textOf = (tokens) =>
  tokens
    .filter((token) => !token.ends)
    .map((token) => token.text)
    .join("");

/**
 * @param {{prompt: string, tokens: any[], title: string}} data what the sample is; tokens are
 *   added to it
 * @param {{name: string, run: () => void}[]} actions buttons under the text
 * @param {(at: number) => void} ask called with the token that is clicked
 */
export function makeSample(data, actions, ask) {
  let word = null;
  const passage = h("p", { class: "passage" }, h("span", { class: "prompt" }));
  // Samples side by side begin with what is theirs.
  if (!data.title) passage.firstChild.textContent = lastWords(data.prompt);
  arrowKeys(passage, ".token");
  const element = h(
    "article",
    { class: "card sample" },
    data.title ? h("h3", { text: data.title }) : null,
    passage,
    h(
      "div",
      { class: "row actions" },
      actions.map(({ name, run }) =>
        h("button", {
          type: "button",
          class: "quiet",
          text: name,
          "aria-label": data.title ? `${name}: ${data.title}` : name,
          onclick: run,
        }),
      ),
    ),
  );

  function draw(token, at) {
    const p = Math.exp(token.logprob);
    const said = `${token.ends ? "end of text" : visible(token.text)}, ${percent(p)}`;
    const tint = surprise(p);
    const button = h("button", {
      type: "button",
      class: `token${tint ? ` surprise${tint}` : ""}${token.ends ? " end" : ""}`,
      text: token.ends ? "end of text" : token.text.replace(/^ (?=\S)/, "").replaceAll("\n", "↵"),
      title: said,
      "aria-label": `token ${said}`,
      "aria-pressed": "false",
      tabindex: at ? -1 : 0,
      onclick: () => {
        mark(at);
        ask(at);
      },
    });
    // A line may end between two words and after a line break, but not inside a word: its tokens
    // stand in one span, and the space before it outside. What is too long for a line is no word.
    const begins = token.ends || /^\s/.test(token.text);
    if (/^ \S/.test(token.text) && !(data.title && !at)) passage.append(" ");
    if (!word || begins || word.textContent.length + token.text.length > LONGEST_WORD) {
      word = h("span", { class: "whole" });
      passage.append(word);
    }
    word.append(button);
    if (token.text.includes("\n")) {
      passage.append("\n");
      word = null;
    }
  }

  /** The token whose alternatives are shown. */
  function mark(at) {
    passage
      .querySelectorAll(".token")
      .forEach((each, i) => each.setAttribute("aria-pressed", String(i === at)));
  }

  data.tokens.forEach(draw);
  return {
    element,
    add(token) {
      data.tokens.push(token);
      draw(token, data.tokens.length - 1);
    },
  };
}
