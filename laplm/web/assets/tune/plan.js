// What a plan says, in the order in which it is asked.

import { bytes, duration, h } from "../dom.js";

const count = (n) => n.toLocaleString("en");
const documents = (n) => `${count(n)} ${n === 1 ? "document" : "documents"}`;
const FEW_STEPS = 10; // with fewer a model learns little

/** Whether there is one text alone, of which the end is held out. */
const cutInTwo = (p) => p.train_documents + p.heldout_documents > p.documents;

/** What was read. */
const read = (p) => {
  const apart = cutInTwo(p) ? ", of which the end is kept back to measure on" : "";
  return `${documents(p.documents)}${apart}, ${count(p.tokens)} tokens`;
};

// Label, and the words for it; where there are none it is left out.
const ROWS = [
  [
    "Time",
    (p) =>
      p.seconds &&
      `about ${duration(p.seconds)} for ${count(p.max_steps)} ` +
        `${p.max_steps === 1 ? "step" : "steps"} of ${count(p.tokens_per_step)} tokens; ` +
        "beginning and measuring come on top, some 20 s with a small model",
  ],
  [
    "Few steps",
    (p) =>
      p.max_steps < FEW_STEPS &&
      `only ${p.max_steps}: more epochs, or more text, teach the model more`,
  ],
  [
    "Memory",
    (p) =>
      p.memory_bytes &&
      `about ${bytes(p.memory_bytes)} at the ` +
        `peak${p.machine_bytes ? ` of ${bytes(p.machine_bytes)} that this machine has free` : ""}`,
  ],
  ["Read", (p) => p.documents && read(p)],
  [
    "Training",
    (p) =>
      p.train_documents &&
      `${documents(p.train_documents)} in windows of ${count(p.window)} ` +
        `tokens, ${Math.round(100 * p.filled)} % filled`,
  ],
  [
    "Held out",
    (p) =>
      p.heldout_documents !== undefined &&
      `${cutInTwo(p) ? "the end of the text" : documents(p.heldout_documents)}, only measured on`,
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
