// The same prompt and seed before and after a tuning; and its report.

import { getText, post } from "../api.js";
import { freshId, h, numberField, replace } from "../dom.js";
import { modelOf } from "./result.js";

const PHONE = 600; // pixels: on one the report is folded

const continued = async (model, prompt, seed) => {
  const asked = { model, prompt, seed, max_tokens: 60, temperature: 0.8, top_k: 40 };
  const answer = await post("/v1/completions", asked);
  return prompt + answer.choices[0].text;
};

/** The report as light or dark as the page is. */
const themed = (path) => `${path}?theme=${document.documentElement.dataset.theme}`;

/** A form for prompt and seed, and two texts. */
function comparison(entry) {
  const id = freshId();
  const prompt = h("input", { type: "text", id, value: "Once upon a time" });
  const seed = numberField({ label: "Seed", min: 0, value: 1 });
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const before = h("p", { class: "sample-text", "aria-live": "polite" });
  const after = h("p", { class: "sample-text", "aria-live": "polite" });
  const go = h("button", { type: "submit", class: "main", text: "Compare" });
  const write = async () => {
    go.disabled = true;
    error.hidden = true;
    try {
      for (const [model, place] of [
        [entry().model, before],
        [modelOf(entry()), after],
      ]) {
        place.textContent = "…";
        place.textContent = await continued(model, prompt.value, Number(seed.input.value));
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
    h("div", {}, h("h4", { text: "after" }), after),
  );
  write();
  return [form, texts];
}

/** @param {HTMLElement} root @param {() => any} entry */
export async function drawAfter(root, entry) {
  replace(root, h("h4", { text: "Before and after" }), ...comparison(entry));
  const path = `/api/tune/${encodeURIComponent(entry().id)}/report`;
  try {
    await getText(path);
  } catch {
    return; // a run without a report is compared all the same
  }
  const frame = h("iframe", {
    class: "report",
    src: themed(path),
    title: `Report of ${entry().name}`,
    sandbox: "",
  });
  const follow = () => {
    if (frame.isConnected) frame.src = themed(path);
    else document.removeEventListener("themechange", follow);
  };
  document.addEventListener("themechange", follow);
  const open = innerWidth > PHONE;
  root.append(h("details", { open }, h("summary", { text: "The report" }), frame));
}
