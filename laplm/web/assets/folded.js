// Settings that are folded until somebody wants to know: one frame for all tabs, and the sliders
// that several of them have.

import { h, slider } from "./dom.js";

/**
 * @param {string} title what the fold says
 * @param {{element: HTMLElement}[]} fields
 * @param {{narrow?: boolean, before?: HTMLElement, after?: HTMLElement}} [more] what stands beside
 */
export const foldedSettings = (title, fields, { narrow, before, after } = {}) =>
  h(
    "details",
    { class: "settings" },
    h("summary", { text: title }),
    before,
    h(
      "div",
      { class: narrow ? "controls narrow" : "controls" },
      fields.map((field) => field.element),
    ),
    after,
  );

/**
 * Temperature, top-k and top-p, by the names that requests have for them.
 * @param {{temperature: number, top_k: number, most_k: number, change?: () => void}} of values to
 *   begin with; the highest k; what is called when one changes
 */
export const samplingSliders = ({ temperature, top_k: topK, most_k: mostK, change }) => ({
  temperature: slider({
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    value: temperature,
    say: (v) => (v === 0 ? "0, greedy" : v.toFixed(2)),
    help: "Low: it takes the likeliest tokens. High: surprises.",
    change,
  }),
  top_k: slider({
    label: "Top-k",
    min: 0,
    max: mostK,
    step: 1,
    value: topK,
    say: (v) => (v ? String(v) : "off"),
    help: "Only the k likeliest tokens can be drawn.",
    change,
  }),
  top_p: slider({
    label: "Top-p",
    min: 0.05,
    max: 1,
    step: 0.01,
    value: 1,
    say: (v) => (v === 1 ? "off" : v.toFixed(2)),
    help: "Only the likeliest tokens that together hold this probability.",
    change,
  }),
});

/** What sliders say, by their names. */
export const valuesOf = (sliders) =>
  Object.fromEntries(Object.entries(sliders).map(([name, field]) => [name, field.value()]));
