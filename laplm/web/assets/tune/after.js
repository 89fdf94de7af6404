// What a tuning changed: in a sentence, in how one prompt goes on, in its report.

import { getText, post } from "../api.js";
import { freshId, h, numberField, replace } from "../dom.js";
import { entryOf } from "../models-list.js";
import { modelOf } from "./result.js";
import { titleOf } from "./states.js";

const USUAL = "Once upon a time";
const SAMPLING = { max_tokens: 60, temperature: 0.8, top_k: 40 };

/** How a model goes on with a text, or what it answers if it chats. */
async function continued({ model, prompt, seed, chats }) {
  const asked = { ...SAMPLING, model, seed };
  if (chats) {
    const messages = [{ role: "user", content: prompt }];
    return (await post("/v1/chat/completions", { ...asked, messages })).choices[0].message.content;
  }
  return prompt + (await post("/v1/completions", { ...asked, prompt })).choices[0].text;
}

/** The report as light or dark as the page is. */
const themed = (path) => `${path}?theme=${document.documentElement.dataset.theme}`;

const round = (number) => (number < 10 ? number.toFixed(1) : String(Math.round(number)));

/** What a run has changed, measured on text that it was not trained on. */
function sentence({ loss_before: before, loss_after: after, bits_before: bits, bits_after: now }) {
  const among = [before, after].map((loss) => round(Math.exp(loss)));
  const better = after < before ? "better" : "no better";
  return (
    `It predicts ${better} what comes next in held-out text, which it was not trained on: it is ` +
    `as unsure as if it chose among ${among[1]} equally likely tokens, before among ${among[0]} ` +
    `(perplexity). That is ${now.toFixed(2)} bits for each byte of the text, before ` +
    `${bits.toFixed(2)}.`
  );
}

/** A form for prompt and seed, and two texts. It begins as a document of the tuned text does. */
function comparison(entry) {
  const id = freshId();
  const { opening, asks } = entry();
  const prompt = h("textarea", { id, rows: 2, spellcheck: "false" });
  prompt.value = opening ?? USUAL;
  const seed = numberField({ label: "Seed", min: 0, value: 1 });
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const before = h("p", { class: "sample-text", "aria-live": "polite" });
  const after = h("p", { class: "sample-text", "aria-live": "polite" });
  const go = h("button", { type: "submit", class: "main", text: "Compare" });
  const write = async () => {
    go.disabled = true;
    error.hidden = true;
    try {
      const tuned = modelOf(entry());
      // While the other one writes: its weights are prepared when it is first used.
      after.textContent = `loading ${tuned} …`;
      const loading = post("/api/models/load", { model: tuned });
      loading.catch(() => {}); // what writes with it says why
      const asked = { prompt: prompt.value, seed: Number(seed.input.value) };
      for (const [model, place, chats] of [
        [entry().model, before, asks && entryOf(entry().model)?.chat],
        [modelOf(entry()), after, asks], // tuned on conversations, it chats
      ]) {
        if (place === after) await loading;
        place.textContent = `${model} is writing…`;
        place.textContent = await continued({ ...asked, model, chats });
      }
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
    }
    go.disabled = false;
  };
  const form = h(
    "form",
    {
      class: "form",
      onsubmit: (event) => {
        event.preventDefault();
        write();
      },
    },
    h(
      "div",
      { class: "controls" },
      h("div", { class: "field choose" }, h("label", { for: id, text: "Prompt" }), prompt),
      seed.element,
    ),
    h("div", { class: "row" }, go),
    error,
  );
  const texts = h(
    "div",
    { class: "two" },
    h("div", {}, h("h4", { text: `before: ${entry().model}` }), before),
    h("div", {}, h("h4", { text: `after: ${titleOf(entry())}` }), after),
  );
  write();
  return [form, texts];
}

/** A link to the report, which is as light or dark as this page. */
async function reportLink(entry) {
  const path = `/api/tune/${encodeURIComponent(entry().id)}/report`;
  try {
    await getText(path);
  } catch {
    return null; // a run without a report is compared all the same
  }
  const link = h("a", { href: themed(path), target: "_blank", text: "Open the report" });
  const follow = () => {
    if (link.isConnected) link.href = themed(path);
    else document.removeEventListener("themechange", follow);
  };
  document.addEventListener("themechange", follow);
  const holds = " (in a tab of its own): more samples, what it copied, where the weights moved";
  return h("p", { class: "report" }, link, holds);
}

/** @param {HTMLElement} root @param {() => any} entry */
export async function drawAfter(root, entry) {
  const { result } = entry();
  const said = result && h("p", { text: sentence(result) });
  const report = h("div");
  replace(root, h("h4", { text: "Before and after" }), said, report, ...comparison(entry));
  replace(report, await reportLink(entry));
}
