// The Tune tab: a text file, a plan, a run that is watched, and what it changed.

import { aborted, events, get, getText, post, remove } from "./api.js";
import { curves } from "./charts.js";
import { bytes, duration, freshId, h, numberField, replace } from "./dom.js";
import { chooseModel, chosenModel, entryOf, onModels, refreshModels } from "./models-list.js";
import { showTab } from "./tabs.js";

const MOST_BYTES = 50_000_000;
const ENDED = ["planned", "stopped", "done", "failed"];
const SAID = {
  planning: "reading the file and timing two steps…",
  planned: "ready to start",
  running: "fine-tuning",
  stopping: "stopping after this step…",
  stopped: "stopped; it can go on from here",
  done: "done",
  failed: "failed",
};
const count = (n) => n.toLocaleString("en");
// What a plan says, in the order in which it is asked: label, and the words for it.
const PLAN = [
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
        `${p.heldout_documents === 1 ? "document" : "documents"}, only measured ` +
        "on",
  ],
  [
    "Trained",
    (p) =>
      p.trained &&
      `${count(p.trained)} parameters${p.method === "lora" ? ", beside the model’s own" : ""}`,
  ],
  ["Left out", (p) => p.skipped?.length && p.skipped.join("; ")],
];

/** @param {HTMLElement} root */
export function startTune(root) {
  let file = null;
  let run = null; // the entry that is shown
  let watching = null;

  // --- the file and the settings ---
  const fileId = freshId();
  const input = h("input", { type: "file", id: fileId, accept: ".txt,.jsonl,.csv,.md,text/plain" });
  const named = h("p", { class: "note", role: "status" });
  const drop = h(
    "div",
    { class: "drop" },
    h("p", {}, h("label", { for: fileId, text: "Drop a text file here, or choose one" })),
    input,
    named,
    h("p", {
      class: "note",
      text:
        ".txt (documents separated by <|endoftext|>), .jsonl or .csv. It stays " +
        "on this machine.",
    }),
  );
  const methodId = freshId();
  const method = h(
    "select",
    { id: methodId },
    h("option", { value: "full", text: "the whole model" }),
    h("option", { value: "lora", text: "LoRA: small matrices beside it" }),
  );
  const epochs = numberField({
    label: "Epochs",
    min: 1,
    max: 100,
    value: 3,
    placeholder: "default",
  });
  const rate = numberField({ label: "Learning rate", min: 0, step: "any", placeholder: "default" });
  const plan = h("button", { type: "submit", class: "main", text: "Show the plan" });
  const error = h("p", { class: "problem", role: "alert", hidden: true });

  // --- the run ---
  const card = h("div", { class: "card", hidden: true });
  const runs = h("ul", { class: "runs" });
  const runsCard = h(
    "div",
    { class: "card", hidden: true },
    h("h3", { text: "Earlier runs" }),
    runs,
  );
  root.append(
    h(
      "div",
      { class: "intro" },
      h("h2", { text: "Tune" }),
      h("p", {
        text:
          "Fine-tune the model on a text of yours. First you see a plan: how long " +
          "it takes and how much memory it needs. Nothing starts until you say so.",
      }),
    ),
    h(
      "form",
      {
        class: "card form",
        onsubmit: (event) => {
          event.preventDefault();
          makePlan();
        },
      },
      drop,
      h(
        "div",
        { class: "controls" },
        h(
          "div",
          { class: "field choose" },
          h("label", { for: methodId, text: "What is trained" }),
          method,
        ),
        epochs.element,
        rate.element,
      ),
      h("div", { class: "row" }, plan),
      error,
    ),
    card,
    runsCard,
  );

  const fail = (problem) => {
    error.textContent = problem.message;
    error.hidden = false;
  };

  function take(chosen) {
    error.hidden = true;
    file = chosen;
    named.textContent = file ? `${file.name}, ${bytes(file.size)}` : "";
    if (file && file.size > MOST_BYTES) {
      fail(
        new Error(
          `${file.name} has ${bytes(file.size)}; from a page at most ` +
            `${bytes(MOST_BYTES)} can be given. Use laplm tune in a terminal.`,
        ),
      );
      file = null;
    }
  }
  input.addEventListener("change", () => take(input.files[0] ?? null));
  for (const type of ["dragenter", "dragover"]) {
    drop.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files[0] ?? null);
  });

  async function makePlan() {
    error.hidden = true;
    if (!file) {
      fail(new Error("Choose a text file first."));
      return;
    }
    plan.disabled = true;
    try {
      const settings = { method: method.value };
      if (epochs.input.value !== "") settings.epochs = Number(epochs.input.value);
      if (rate.input.value !== "") settings.learning_rate = Number(rate.input.value);
      open(
        await post("/api/tune", {
          name: file.name,
          content: await file.text(),
          model: chosenModel(),
          settings,
        }),
      );
    } catch (problem) {
      fail(problem);
    }
    plan.disabled = false;
  }

  // --- one run, as it goes ---
  function open(entry) {
    watching?.abort();
    run = new RunCard(card, entry, act);
    card.hidden = false;
    watch(entry.id);
    list();
  }

  async function act(verb) {
    try {
      await post(`/api/tune/${encodeURIComponent(run.entry.id)}/${verb}`);
      watch(run.entry.id);
    } catch (problem) {
      run.say(problem.message);
    }
  }

  /** Follow a run's events until it comes to rest. */
  async function watch(id) {
    watching?.abort();
    const control = new AbortController();
    watching = control;
    try {
      for await (const { event, data } of events(
        "GET",
        `/api/tune/${encodeURIComponent(id)}/events`,
        undefined,
        control.signal,
      )) {
        if (watching !== control) return;
        run.take(event, data);
      }
      if (watching !== control) return;
      run.take("state", await get(`/api/tune/${encodeURIComponent(id)}`));
      if (run.entry.state === "done") await refreshModels();
      list();
    } catch (problem) {
      if (!aborted(problem)) run.say(problem.message);
    }
  }

  async function list() {
    let all;
    try {
      all = (await get("/api/tune")).runs;
    } catch {
      return; // the tab works without the list
    }
    runsCard.hidden = !all.length;
    // Who comes back, or reloads the page, sees what is on its way.
    const going = all.find((entry) => !ENDED.includes(entry.state));
    if (!run && going) {
      open(going);
      return;
    }
    replace(
      runs,
      all.map((entry) =>
        h(
          "li",
          { class: "row" },
          h("button", {
            type: "button",
            text: entry.name,
            onclick: () => open(entry),
            "aria-label": `Show the run ${entry.name}`,
          }),
          h("span", { class: "note", text: `${entry.model}; ${SAID[entry.state] ?? entry.state}` }),
          ENDED.includes(entry.state)
            ? h("button", {
                type: "button",
                class: "quiet",
                text: "Delete",
                "aria-label": `Delete the run ${entry.name}`,
                onclick: () => forget(entry),
              })
            : null,
        ),
      ),
    );
  }

  async function forget(entry) {
    if (!confirm(`Delete the run “${entry.name}” and the model that it made?`)) return;
    try {
      await remove(`/api/tune/${encodeURIComponent(entry.id)}`);
      if (run?.entry.id === entry.id) card.hidden = true;
      await refreshModels();
    } catch (problem) {
      fail(problem);
    }
    list();
  }

  onModels(() => {
    plan.title = `of ${chosenModel()}`;
  });
  return { shown: list };
}

/** Go to another tab with what a run has made. */
function useButton(entry, text, writes) {
  const name = `run:${entry.id}`;
  return h("button", {
    type: "button",
    class: writes ? "main" : "",
    text,
    onclick: async () => {
      await refreshModels();
      chooseModel(name);
      if (!writes) showTab("look");
      else showTab(entryOf(name)?.chat ? "chat" : "write");
    },
  });
}

/** Add a point to a curve; after a run was stopped, steps may come again. */
function put(curve, step, value) {
  while (curve.length && curve.at(-1)[0] >= step) curve.pop();
  if (value !== null && value !== undefined) curve.push([step, value]);
}

/** The card of one run: its plan, its curve, its samples, what it changed. */
class RunCard {
  constructor(root, entry, act) {
    this.entry = entry;
    this.act = act;
    this.state = h("p", { class: "state", role: "status" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.buttons = h("div", { class: "row" });
    this.plan = h("div");
    this.live = h("div", { hidden: true });
    this.after = h("div");
    this.compared = false;
    replace(
      root,
      h("h3", { text: `${entry.name} → ${entry.model}` }),
      this.state,
      this.problem,
      this.plan,
      this.buttons,
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
    this.state.textContent = SAID[entry.state] ?? entry.state;
    this.say(entry.state === "failed" ? entry.message || "it failed, and did not say why" : "");
    if (entry.plan && this.drawn !== entry.plan) this.drawPlan(entry.plan);
    const button = (verb, text, main) =>
      h("button", {
        type: "button",
        class: main ? "main" : "",
        text,
        onclick: () => this.act(verb),
      });
    if (this.buttonsFor !== entry.state) {
      this.buttonsFor = entry.state;
      replace(
        this.buttons,
        {
          planned: [button("start", "Start", true)],
          running: [button("stop", "Stop", false)],
          stopped: [button("start", "Resume", true)],
          // What was planned can be tried again; what could not be planned needs other data.
          failed: entry.plan ? [button("start", "Try again", true)] : [],
          done: [
            useButton(entry, "Chat or write with it", true),
            useButton(entry, "Look inside", false),
          ],
        }[entry.state] ?? [],
      );
    }
    this.drawLive();
    if (entry.state === "done" && !this.compared) this.drawAfter();
  }

  drawPlan(plan) {
    this.drawn = plan;
    replace(
      this.plan,
      h("h4", { text: "The plan" }),
      h(
        "dl",
        { class: "facts" },
        PLAN.map(([name, say]) => [name, say(plan)])
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
  }

  drawLive() {
    const { entry } = this;
    const losses = entry.losses ?? [];
    const heldout = entry.heldout_losses ?? [];
    this.live.hidden = !losses.length && !heldout.length && entry.state !== "running";
    if (this.live.hidden) return;
    const last = entry.samples?.at(-1);
    const left =
      entry.tokens_per_second && entry.max_steps
        ? ((entry.max_steps - entry.step) * entry.seconds) / Math.max(1, entry.step)
        : null;
    replace(
      this.live,
      h(
        "p",
        { class: "row steps" },
        [
          `step ${entry.step ?? 0} of ${entry.max_steps ?? "…"}`,
          entry.train_loss && `loss ${entry.train_loss.toFixed(3)}`,
          entry.heldout_loss && `held out ${entry.heldout_loss.toFixed(3)}`,
          entry.tokens_per_second &&
            `${Math.round(entry.tokens_per_second).toLocaleString("en")} tokens/s`,
          entry.state === "running" && left && `about ${duration(left)} left`,
        ]
          .filter(Boolean)
          .map((text) => h("span", { text })),
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
          { name: "training", points: losses },
          { name: "held out", points: heldout, dots: true },
        ],
      }),
      h(
        "p",
        { class: "note" },
        h("span", { class: "swatch c0" }),
        " training loss  ",
        h("span", { class: "swatch c1" }),
        " loss on held-out documents, which tells whether it generalises or memorises",
      ),
      last
        ? h(
            "div",
            {},
            h("h4", { text: `What it writes now (step ${last.step})` }),
            h("p", { class: "sample-text", text: last.text }),
          )
        : null,
    );
  }

  /** The same prompt and seed, before and after; and the report. */
  async drawAfter() {
    this.compared = true;
    const { entry } = this;
    const id = freshId();
    const prompt = h("input", { type: "text", id, value: "Once upon a time" });
    const seed = numberField({ label: "Seed", min: 0, value: 1 });
    const error = h("p", { class: "problem", role: "alert", hidden: true });
    const before = h("p", { class: "sample-text", "aria-live": "polite" });
    const after = h("p", { class: "sample-text", "aria-live": "polite" });
    const go = h("button", { type: "submit", class: "main", text: "Compare" });
    const tuned = `run:${entry.id}`;
    const write = async () => {
      go.disabled = true;
      error.hidden = true;
      try {
        for (const [model, place] of [
          [entry.model, before],
          [tuned, after],
        ]) {
          place.textContent = "…";
          const answer = await post("/v1/completions", {
            model,
            prompt: prompt.value,
            seed: Number(seed.input.value),
            max_tokens: 60,
            temperature: 0.8,
            top_k: 40,
          });
          place.textContent = prompt.value + answer.choices[0].text;
        }
      } catch (problem) {
        error.textContent = problem.message;
        error.hidden = false;
      }
      go.disabled = false;
    };
    replace(
      this.after,
      h("h4", { text: "Before and after" }),
      h(
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
      ),
      h(
        "div",
        { class: "two" },
        h("div", {}, h("h4", { text: `before: ${entry.model}` }), before),
        h("div", {}, h("h4", { text: `after: ${tuned}` }), after),
      ),
    );
    write();
    const path = `/api/tune/${encodeURIComponent(entry.id)}/report`;
    try {
      await getText(path);
    } catch {
      return; // a run without a report is compared all the same
    }
    this.after.append(
      h("h4", { text: "The report" }),
      h("iframe", { class: "report", src: path, title: `Report of ${entry.name}`, sandbox: "" }),
    );
  }
}
