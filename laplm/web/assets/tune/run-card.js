// The card of one run: its plan, its curve, its samples, what it changed.

import { curves } from "../charts.js";
import { duration, h, replace } from "../dom.js";
import { drawAfter } from "./after.js";
import { fewSteps, planView } from "./plan.js";
import { nameForm, resultButtons } from "./result.js";
import { titleOf, wordsOf } from "./states.js";

/** Add a point to a curve; after a run was stopped, steps may come again. */
function put(curve, step, value) {
  while (curve.length && curve.at(-1)[0] >= step) curve.pop();
  if (value !== null && value !== undefined) curve.push([step, value]);
}

/** Where a run is, in a few numbers. */
function numbers(entry) {
  const left =
    entry.tokens_per_second && entry.max_steps
      ? ((entry.max_steps - entry.step) * entry.seconds) / Math.max(1, entry.step)
      : null;
  return [
    `step ${entry.step ?? 0} of ${entry.max_steps ?? "…"}`,
    entry.train_loss && `loss ${entry.train_loss.toFixed(3)}`,
    entry.heldout_loss && `held out ${entry.heldout_loss.toFixed(3)}`,
    entry.tokens_per_second &&
      `${Math.round(entry.tokens_per_second).toLocaleString("en")} tokens/s`,
    entry.state === "running" &&
      (entry.step && entry.step === entry.max_steps
        ? "measuring what it has learnt…"
        : left && `about ${duration(left)} left`),
  ].filter(Boolean);
}

/** The steps that were made: numbers, curve, what it writes. */
function progress(entry) {
  const last = entry.samples?.at(-1);
  return [
    h(
      "p",
      { class: "row steps" },
      numbers(entry).map((text) => h("span", { text })),
    ),
    h("progress", {
      class: "meter",
      max: entry.max_steps || 1,
      value: entry.step || 0,
      "aria-label": "Steps done",
    }),
    curves({
      title: "Loss over steps",
      xLabel: "steps",
      series: [
        { name: "training", points: entry.losses ?? [] },
        { name: "held out", points: entry.heldout_losses ?? [], dots: true },
      ],
    }),
    h(
      "p",
      { class: "note" },
      h("span", { class: "swatch c0" }),
      " training loss  ",
      h("span", { class: "swatch c1" }),
      " loss on held-out documents, which it is not trained on. Loss: how much the next token " +
        "surprises it, on average; lower is better. Where only the training loss falls, it " +
        "learns the text by heart.",
    ),
    last
      ? h(
          "div",
          {},
          h("h4", { text: `What it writes now (step ${last.step})` }),
          h("p", { class: "sample-text", text: last.text }),
        )
      : null,
  ];
}

export class RunCard {
  /**
   * @param {HTMLElement} root @param {any} entry @param {(verb: string) => void} act
   * @param {() => void} renamed
   * @param {((epochs: number) => void) | null} again plan it with so many epochs, where that can be
   */
  constructor(root, entry, act, renamed, again) {
    this.again = again;
    this.entry = entry;
    this.act = act;
    this.title = h("h3");
    this.state = h("p", { class: "state", role: "status" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.buttons = h("div", { class: "row" });
    this.written = h("div");
    this.plan = h("div");
    this.few = h("div");
    this.live = h("div", { hidden: true });
    this.after = h("div");
    this.compared = false;
    const name = nameForm(
      () => this.entry,
      (now) => {
        this.take("state", now);
        renamed();
      },
      (problem) => this.say(problem.message),
    );
    replace(
      root,
      this.title,
      this.state,
      this.problem,
      name,
      this.few,
      this.plan,
      this.buttons,
      this.written,
      this.live,
      this.after,
    );
    this.draw();
  }

  say(message) {
    this.problem.textContent = message;
    this.problem.hidden = !message;
  }

  take(event, data) {
    if (event === "state") this.entry = data;
    else if (event === "step") {
      Object.assign(this.entry, data);
      put(this.entry.losses, data.step, data.train_loss);
    } else if (event === "eval") {
      put(this.entry.heldout_losses, data.step, data.heldout_loss);
      this.entry.heldout_loss = data.heldout_loss;
      if (data.text) (this.entry.samples ??= []).push(data);
    }
    this.draw();
  }

  draw() {
    const { entry } = this;
    this.title.textContent = `${entry.name} → ${titleOf(entry)}`;
    this.state.textContent = wordsOf(entry);
    this.say(entry.state === "failed" ? entry.message || "it failed, and did not say why" : "");
    if (entry.plan && this.drawn !== entry.plan) {
      this.drawn = entry.plan;
      replace(this.plan, planView(entry, entry.state !== "done"));
    }
    if (this.buttonsFor !== entry.state) {
      const ends = this.buttonsFor === "running" && entry.state === "done";
      this.buttonsFor = entry.state;
      replace(this.buttons, this.#buttons());
      replace(this.few, fewSteps(entry, this.again));
      if (ends) this.buttons.scrollIntoView({ block: "nearest" });
    }
    const measured = entry.losses?.length || entry.heldout_losses?.length;
    this.live.hidden = !measured && entry.state !== "running";
    if (!this.live.hidden) replace(this.live, progress(entry));
    if (entry.state === "done" && !this.compared) {
      this.compared = true;
      drawAfter(this.after, () => this.entry);
    }
  }

  #buttons() {
    const button = (verb, text, main) =>
      h("button", {
        type: "button",
        class: main ? "main" : "",
        text,
        onclick: () => this.act(verb),
      });
    switch (this.entry.state) {
      case "planned":
        return [button("start", "Start", true)];
      case "running":
        return [button("stop", "Stop", false)];
      case "stopped":
        return [button("start", "Resume", true)];
      case "failed":
        // What was planned can be tried again; what could not be planned needs other data.
        return this.entry.plan ? [button("start", "Try again", true)] : [];
      case "done":
        return resultButtons(
          () => this.entry,
          this.written,
          (problem) => this.say(problem.message),
        );
      default:
        return [];
    }
  }
}
