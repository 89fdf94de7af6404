// How the Write tab samples.

import { h, numberField } from "../dom.js";
import { foldedSettings, samplingSliders, valuesOf } from "../folded.js";

/** A seed that a person can read out and type again. */
const drawSeed = () => Math.floor(Math.random() * 1_000_000);

/**
 * @returns {{element: HTMLElement, values: () => any, keepSeed: (seed: number) => void,
 *   suggests: () => boolean}}
 */
export function makeSettings() {
  const sliders = samplingSliders({ temperature: 0.8, top_k: 40, most_k: 100 });
  const help = "How much it writes: words, and pieces of words.";
  const length = numberField({ label: "Tokens", min: 1, max: 1000, value: 60, help });
  const seed = numberField({
    label: "Seed",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    placeholder: "random",
    help: "The same seed gives the same text.",
  });
  const suggest = h("input", { type: "checkbox", checked: true });
  const after = h(
    "label",
    { class: "check" },
    suggest,
    " Suggest words while I type (Tab takes them)",
  );
  const element = foldedSettings("Settings", [...Object.values(sliders), length, seed], { after });
  return {
    element,
    values: () => ({
      ...valuesOf(sliders),
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
