// How the Write tab samples: folded until somebody wants to know.

import { h, numberField, slider } from "../dom.js";

/** A seed that a person can read out and type again. */
const drawSeed = () => Math.floor(Math.random() * 1_000_000);

/**
 * @returns {{element: HTMLElement, values: () => any, keepSeed: (seed: number) => void,
 *   suggests: () => boolean}}
 */
export function makeSettings() {
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
  const suggest = h("input", { type: "checkbox", checked: true });
  const element = h(
    "details",
    { class: "settings" },
    h("summary", { text: "Settings" }),
    h(
      "div",
      { class: "controls" },
      temperature.element,
      topK.element,
      topP.element,
      length.element,
      seed.element,
    ),
    h("label", { class: "check" }, suggest, " Suggest words while I type (Tab takes them)"),
  );
  return {
    element,
    values: () => ({
      temperature: temperature.value(),
      top_k: topK.value(),
      top_p: topP.value(),
      max_tokens: Number(length.input.value),
      seed: seed.input.value === "" ? drawSeed() : Number(seed.input.value),
    }),
    keepSeed(value) {
      seed.input.value = value;
      element.open = true;
    },
    suggests: () => suggest.checked,
  };
}
