// What a plan says, in the order in which it is asked.

import { bytes, duration, h } from "../dom.js";

const count = (n) => n.toLocaleString("en");
const documents = (n) => `${count(n)} ${n === 1 ? "document" : "documents"}`;

// With fewer a model hardly takes up how the text is written; of the example of 36 verses the best
// step is the 15th. The weights of the step that predicts held-out text best are kept.
const ENOUGH_STEPS = 20;
const USUAL_EPOCHS = 3;
const MOST_EPOCHS = 100;

/** Whether there is one text alone, of which the end is held out. */
const cutInTwo = (p) => p.train_documents + p.heldout_documents > p.documents;

/** What was read. */
const read = (p) => {
  const apart = cutInTwo(p) ? ", of which the end is kept back to measure on" : "";
  return `${documents(p.documents)}${apart}, ${count(p.tokens)} tokens`;
};

// Label, and the words for it; where there are none it is left out.
const ROWS = [
  ["Base model", (p) => p.base],
  [
    "Time",
    (p) =>
      p.seconds &&
      `about ${duration(p.seconds)} for ${count(p.max_steps)} ` +
        `${p.max_steps === 1 ? "step" : "steps"} of ${count(p.tokens_per_step)} tokens; ` +
        "beginning and measuring come on top, some 20 s with a small model",
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

/** How many epochs give a short text enough steps; null where no more than are planned do. */
function moreEpochs({ plan, settings }) {
  if (settings.max_steps) return null;
  const epochs = settings.epochs ?? USUAL_EPOCHS;
  const enough = Math.min(MOST_EPOCHS, Math.ceil((ENOUGH_STEPS * epochs) / plan.max_steps));
  return enough > epochs ? enough : null;
}

/**
 * What is said of a plan with few steps, and a button that plans more.
 * @param {any} entry @param {((epochs: number) => void) | null} again plan it with so many; null
 *   where its text is not at hand
 * @returns {HTMLElement | null} null where there are enough
 */
export function fewSteps(entry, again) {
  const { plan } = entry;
  if (entry.state !== "planned" || !(plan?.max_steps < ENOUGH_STEPS)) return null;
  const epochs = moreEpochs(entry);
  const steps = `${plan.max_steps} ${plan.max_steps === 1 ? "step" : "steps"}`;
  const more = epochs ? `Read ${epochs} times (epochs) it teaches more` : "More text teaches more";
  const said =
    `Only ${steps}: the text is short, and a model learns little in fewer than ${ENOUGH_STEPS}. ` +
    `${more}; the weights of the step that predicts held-out text best are kept.`;
  return h(
    "div",
    { class: "few-steps", role: "note" },
    h("p", { text: said }),
    epochs && again
      ? h("button", {
          type: "button",
          class: "main",
          text: `Plan ${epochs} epochs`,
          onclick: () => again(epochs),
        })
      : null,
  );
}

/**
 * The plan, folded when there is nothing to decide any more.
 * @param {any} entry @param {boolean} open
 */
export const planView = ({ plan, model }, open) =>
  h(
    "details",
    { class: "plan", open },
    h("summary", { text: "The plan" }),
    h(
      "dl",
      { class: "facts" },
      ROWS.map(([name, say]) => [name, say({ ...plan, base: model })])
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
