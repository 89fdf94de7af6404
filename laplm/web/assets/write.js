// The Write tab: a prompt goes on, token by token; every token can be questioned and replaced.

import { aborted, events } from "./api.js";
import {
  arrowKeys,
  freshId,
  h,
  looseSpace,
  numberField,
  percent,
  replace,
  slider,
  visible,
} from "./dom.js";
import { chosenModel } from "./models-list.js";

const ALTERNATIVES = 8;
const SHOWN_PROMPT = 400; // characters, the last ones, that stand before what is written
const LONGEST_WORD = 18; // characters that a line of a phone holds
const LEVELS = [
  [0.5, "over 50 %"],
  [0.2, "20 to 50 %"],
  [0.05, "5 to 20 %"],
  [0, "under 5 %"],
];
const level = (p) => LEVELS.findIndex(([least]) => p >= least);

/** A seed that a person can read out and type again. */
const drawSeed = () => Math.floor(Math.random() * 1_000_000);

/** @param {HTMLElement} root */
export function startWrite(root) {
  const promptId = freshId();
  const prompt = h("textarea", { id: promptId, rows: 3, spellcheck: "false" });
  prompt.value = "Once upon a time, there was a little girl";
  const temperature = slider({
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    value: 0.8,
    say: (v) => (v === 0 ? "0, greedy" : v.toFixed(2)),
    help: "Low: the likeliest tokens. High: surprises.",
  });
  const topK = slider({
    label: "Top-k",
    min: 0,
    max: 100,
    step: 1,
    value: 40,
    say: (v) => (v ? String(v) : "off"),
    help: "Only the k likeliest tokens can be drawn.",
  });
  const topP = slider({
    label: "Top-p",
    min: 0.05,
    max: 1,
    step: 0.01,
    value: 1,
    say: (v) => (v === 1 ? "off" : v.toFixed(2)),
    help: "Only the likeliest tokens that together hold this probability.",
  });
  const length = numberField({ label: "Tokens", min: 1, max: 1000, value: 60 });
  const seed = numberField({
    label: "Seed",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    placeholder: "random",
    help: "The same seed gives the same text",
  });
  const samplesId = freshId();
  const samples = h(
    "select",
    { id: samplesId },
    [1, 2, 3, 4, 5, 10].map((n) => h("option", { value: n, text: String(n) })),
  );
  const go = h("button", { class: "main", type: "submit", text: "Write" });
  const stop = h("button", { type: "button", text: "Stop", disabled: true });
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const status = h("p", { class: "status", role: "status" });
  const result = h("div", { class: "samples" });
  const legend = h(
    "p",
    { class: "legend" },
    "How likely each token was:",
    LEVELS.map(([, text], i) => h("span", { class: `key level${i}`, text })),
    "Choose a token to see what else it could have been; arrow keys move among them.",
  );
  legend.hidden = true;
  // Tokens fly by; what is read out is the whole text, once it is there.
  const spoken = h("p", { class: "unseen", "aria-live": "polite" });
  let running = null;

  root.append(
    h(
      "form",
      {
        class: "card form",
        onsubmit: (event) => {
          event.preventDefault();
          write();
        },
      },
      h("div", { class: "field wide" }, h("label", { for: promptId, text: "Prompt" }), prompt),
      h(
        "div",
        { class: "controls" },
        temperature.element,
        topK.element,
        topP.element,
        length.element,
        seed.element,
        h("div", { class: "field" }, h("label", { for: samplesId, text: "Samples" }), samples),
      ),
      h(
        "div",
        { class: "row" },
        go,
        stop,
        h("span", { class: "note", text: "Ctrl + Enter writes" }),
      ),
      error,
    ),
    status,
    legend,
    result,
    spoken,
  );
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      write();
    }
  });
  stop.addEventListener("click", () => running?.abort());

  /**
   * @param {{ids: number[], text: string, kept: any[]}} [from] go on from these tokens of a sample
   */
  async function write(from) {
    running?.abort();
    const control = new AbortController();
    running = control;
    const n = from ? 1 : Number(samples.value);
    const used = seed.input.value === "" ? drawSeed() : Number(seed.input.value);
    const model = chosenModel();
    const texts = Array.from(
      { length: n },
      (_, i) =>
        new Sample(
          from ? "with another token" : n > 1 ? `sample ${i + 1}` : "",
          from?.text ?? prompt.value,
          write,
        ),
    );
    for (const sample of texts) {
      sample.promptIds = from?.promptIds ?? null;
      from?.kept.forEach((token) => sample.add(token));
    }
    replace(
      result,
      texts.map((sample) => sample.element),
    );
    result.classList.toggle("many", n > 1);
    result.setAttribute("aria-busy", "true");
    error.hidden = true;
    legend.hidden = false;
    stop.disabled = false;
    spoken.textContent = "";
    status.textContent = `${model} is writing…`;
    const start = performance.now();
    let count = 0;
    let promptIds = null;
    let ended = "";
    let failed = false;
    try {
      const body = {
        model,
        prompt: from ? from.ids : prompt.value,
        max_tokens: Number(length.input.value),
        n,
        temperature: temperature.value(),
        top_k: topK.value(),
        top_p: topP.value(),
        seed: used,
        logprobs: ALTERNATIVES,
        return_token_ids: true,
        stream: true,
      };
      for await (const { data } of events("POST", "/v1/completions", body, control.signal)) {
        promptIds ??= data.prompt_token_ids;
        for (const choice of data.choices) {
          const sample = texts[choice.index];
          sample.promptIds ??= promptIds;
          const ids = choice.token_ids ?? [];
          for (const [i, id] of ids.entries()) {
            count += 1;
            sample.add({
              // No stop texts are asked for: what stops a text is the token that ends it.
              id,
              ends: choice.finish_reason === "stop" && i === ids.length - 1,
              text: choice.logprobs.token_texts[i],
              logprob: choice.logprobs.token_logprobs[i],
              others: choice.logprobs.top_token_ids[i].map((other, j) => ({
                id: other,
                text: choice.logprobs.top_texts[i][j],
                logprob: choice.logprobs.top_token_logprobs[i][j],
              })),
            });
          }
        }
      }
      ended = count ? "" : " The model ended its text at once.";
    } catch (problem) {
      if (aborted(problem)) ended = " Stopped.";
      else {
        error.textContent = problem.message;
        error.hidden = false;
        failed = true;
      }
    }
    if (running !== control) return; // another one has begun
    running = null;
    stop.disabled = true;
    result.removeAttribute("aria-busy");
    if (failed && !count) {
      // there is nothing to show but the reason
      replace(status);
      replace(result);
      legend.hidden = true;
      return;
    }
    const seconds = (performance.now() - start) / 1000;
    replace(
      status,
      `${count} tokens in ${seconds.toFixed(1)} s, ` +
        `${Math.round(count / seconds)} tokens/s; ${model}, seed `,
      h("button", {
        class: "link",
        type: "button",
        text: String(used),
        title: "Keep this seed",
        "aria-label": `Keep seed ${used}`,
        onclick: () => {
          seed.input.value = used;
        },
      }),
      `.${ended}${from ? "" : looseSpace(prompt.value)}`,
    );
    spoken.textContent = texts.map((sample) => sample.text).join("\n");
  }

  return {};
}

/** One continuation: its tokens as buttons, and what each could have been. */
class Sample {
  constructor(title, prompt, goOn) {
    this.prompt = prompt;
    this.goOn = goOn;
    this.tokens = [];
    this.promptIds = null;
    this.word = null;
    const from = prompt.length - SHOWN_PROMPT;
    this.passage = h(
      "p",
      { class: "passage" },
      h("span", {
        class: "prompt",
        text: from > 0 ? `…${prompt.slice(prompt.indexOf(" ", from) + 1 || from)}` : prompt,
      }),
    );
    arrowKeys(this.passage, ".token");
    this.choice = h("div", { class: "choice", hidden: true });
    const copy = h("button", {
      class: "quiet",
      type: "button",
      text: "Copy",
      "aria-label": `Copy the text${title ? ` of ${title}` : ""}`,
    });
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(this.prompt + this.text);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Not allowed by the browser";
      }
    });
    this.element = h(
      "article",
      { class: "card sample" },
      h("header", { class: "row between" }, h("h3", { text: title || "continuation" }), copy),
      this.passage,
      this.choice,
    );
  }

  get text() {
    return this.tokens
      .filter((token) => !token.ends)
      .map((token) => token.text)
      .join("");
  }

  add(token) {
    const at = this.tokens.length;
    this.tokens.push(token);
    const p = Math.exp(token.logprob);
    const said = `${token.ends ? "end of text" : visible(token.text)}, ${percent(p)}`;
    const button = h("button", {
      type: "button",
      class: `token level${level(p)}${token.chosen ? " chosen" : ""}${token.ends ? " end" : ""}`,
      text: token.ends ? "end of text" : token.text.replaceAll("\n", "↵"),
      title: said,
      "aria-label": `token ${said}`,
      "aria-expanded": "false",
      tabindex: at ? -1 : 0,
    });
    button.addEventListener("click", () => this.ask(at, button));
    // A line may end between two words and after a line break, but not inside a word: its tokens
    // stand in one span. What is too long for a line is no word.
    if (
      !this.word ||
      token.ends ||
      /^\s/.test(token.text) ||
      this.word.textContent.length + token.text.length > LONGEST_WORD
    ) {
      this.word = h("span", { class: "whole" });
      this.passage.append(this.word);
    }
    this.word.append(button);
    if (token.text.includes("\n")) {
      this.passage.append("\n");
      this.word = null;
    }
  }

  /** Show what could have stood in a token's place. */
  ask(at, button) {
    const open = button.getAttribute("aria-expanded") === "true";
    this.passage
      .querySelectorAll("[aria-expanded=true]")
      .forEach((b) => b.setAttribute("aria-expanded", "false"));
    this.choice.hidden = open;
    if (open) return;
    button.setAttribute("aria-expanded", "true");
    const token = this.tokens[at];
    const rows = token.others.some((other) => other.id === token.id)
      ? token.others
      : [...token.others, token];
    replace(
      this.choice,
      h("h4", {
        text: `In place of ${token.ends ? "the end of the text" : `“${visible(token.text)}”`}`,
      }),
      h("p", {
        class: "note",
        text:
          "The probabilities are the model’s own, before temperature, top-k and " +
          "top-p. Choose one to go on from it.",
      }),
      h(
        "ul",
        { class: "bars" },
        rows.map((other) => {
          const p = Math.exp(other.logprob);
          const own = other.id === token.id;
          return h(
            "li",
            {},
            h(
              "button",
              {
                type: "button",
                class: `alternative${own ? " own" : ""}`,
                "aria-label":
                  `Go on from ${visible(other.text)}, ` + `${percent(p)}${own ? ", as it is" : ""}`,
                onclick: () =>
                  this.goOn({
                    ids: [
                      ...this.promptIds,
                      ...this.tokens.slice(0, at).map((t) => t.id),
                      other.id,
                    ],
                    promptIds: this.promptIds,
                    text: this.prompt,
                    kept: [
                      ...this.tokens.slice(0, at),
                      { ...other, others: token.others, chosen: true },
                    ],
                  }),
              },
              h("span", { class: "word", text: visible(other.text) }),
              h(
                "span",
                { class: "bar" },
                h("span", { class: "fill", style: { width: `${100 * p}%` } }),
              ),
              h("span", { class: "number", text: percent(p) }),
            ),
          );
        }),
      ),
    );
  }
}
