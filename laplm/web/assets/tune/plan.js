// What a plan says, in the order in which it is asked.

import { bytes, duration, h } from "../dom.js";

const count = (n) => n.toLocaleString("en");
// Label, and the words for it; where there are none it is left out.
const ROWS = [
  [
    "Time",
    (p) =>
      p.seconds &&
      `about ${duration(p.seconds)}, ${count(p.max_steps)} steps of ` +
        `${count(p.tokens_per_step)} tokens`,
  ],
  [
    "Memory",
    (p) =>
      p.memory_bytes &&
      `about ${bytes(p.memory_bytes)} at the ` +
        `peak${p.machine_bytes ? ` of ${bytes(p.machine_bytes)} that this machine has free` : ""}`,
  ],
  ["Read", (p) => p.documents && `${count(p.documents)} documents, ${count(p.tokens)} tokens`],
  [
    "Training",
    (p) =>
      p.train_documents &&
      `${count(p.train_documents)} documents in windows of ${count(p.window)} ` +
        `tokens, ${Math.round(100 * p.filled)} % filled`,
  ],
  [
    "Held out",
    (p) =>
      p.heldout_documents !== undefined &&
      `${count(p.heldout_documents)} ` +
        `${p.heldout_documents === 1 ? "document" : "documents"}, only measured on`,
  ],
  [
    "Trained",
    (p) =>
      p.trained &&
      `${count(p.trained)} parameters${p.method === "lora" ? ", beside the model’s own" : ""}, ` +
        `learning rate ${Number(p.learning_rate.toPrecision(2))}`,
  ],
  ["Left out", (p) => p.skipped?.length && p.skipped.join("; ")],
];

/**
 * The plan, folded when there is nothing to decide any more.
 * @param {any} plan @param {boolean} open
 */
export const planView = (plan, open) =>
  h(
    "details",
    { class: "plan", open },
    h("summary", { text: "The plan" }),
    h(
      "dl",
      { class: "facts" },
      ROWS.map(([name, say]) => [name, say(plan)])
        .filter(([, words]) => words)
        .flatMap(([name, words]) => [h("dt", { text: name }), h("dd", { text: words })]),
    ),
    plan.first_window
      ? h(
          "details",
          {},
          h("summary", { text: "What the model will read first" }),
          h("p", { class: "sample-text", text: plan.first_window }),
        )
      : null,
  );
