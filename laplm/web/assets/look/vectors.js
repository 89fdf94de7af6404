// A vector as a strip of its first numbers, beside others on the same scale.

import { strip } from "../charts.js";
import { decimal, h } from "../dom.js";

const units = {
  length: (vector) => `length ${vector.norm.toFixed(1)}`,
  moments: (vector) => `mean ${decimal(vector.mean, 2)}, variance ${decimal(vector.variance, 2)}`,
};

/** The largest of all numbers of some vectors: what has the full colour on their scale. */
export const scaleOf = (vectors) =>
  Math.max(...vectors.flatMap((vector) => vector.numbers.map(Math.abs)), 1e-9);

/**
 * Vectors under one another, all on one scale.
 * @param {[any, string][]} rows vectors and their names
 * @param {number} width how many numbers each has in truth
 * @param {"length" | "moments"} [unit] what is said of each
 */
export function vectorRows(rows, width, unit = "length") {
  const most = scaleOf(rows.map(([vector]) => vector));
  const shown = rows[0][0].numbers.length;
  const which = shown < width ? `The first ${shown} of ${width} numbers` : "All numbers";
  return h(
    "div",
    { class: "vectors" },
    rows.map(([vector, name]) =>
      h(
        "div",
        { class: "vector" },
        h("span", { class: "vector-name", text: name }),
        strip(vector.numbers, `${name}: its first ${shown} numbers`, most),
        h("span", { class: "number", text: units[unit](vector) }),
      ),
    ),
    h("p", {
      class: "note",
      text: `${which} of each vector, on one scale: full colour is ${most.toFixed(1)}.`,
    }),
  );
}
