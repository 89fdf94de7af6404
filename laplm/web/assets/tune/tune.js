// The Tune tab: a text, a plan, a run that is watched, and what it changed.

import { aborted, events, get, post, remove } from "../api.js";
import { freshId, h, numberField } from "../dom.js";
import { chosenModel, entryOf, onModels, refreshModels } from "../models-list.js";
import { RunCard } from "./run-card.js";
import { RunsList } from "./runs.js";
import { textSource } from "./source.js";
import { atRest } from "./states.js";

const LIST_MILLISECONDS = 2000; // after which runs that others have begun are seen

/** What is trained, how often, how fast, under which name. */
function settingFields() {
  const [methodId, nameId] = [freshId(), freshId()];
  const method = h(
    "select",
    { id: methodId },
    h("option", { value: "full", text: "the whole model" }),
    h("option", { value: "lora", text: "LoRA: small matrices beside it" }),
  );
  const name = h("input", { type: "text", id: nameId, maxlength: 64, placeholder: "as the file" });
  const most = { min: 1, max: 100, value: 3, placeholder: "default" };
  const epochs = numberField({ label: "Epochs", help: "How often it reads the text.", ...most });
  const rate = numberField({
    label: "Learning rate",
    min: 0,
    step: "any",
    placeholder: "default",
    help: "How far one step moves it.",
  });
  const field = (id, label, input) =>
    h("div", { class: "field choose" }, h("label", { for: id, text: label }), input);
  return {
    element: h(
      "div",
      { class: "controls" },
      field(nameId, "Name of the result", name),
      field(methodId, "What is trained", method),
      epochs.element,
      rate.element,
    ),
    name: () => name.value.trim() || null,
    setEpochs: (value) => {
      epochs.input.value = value;
    },
    settings: () => ({
      method: method.value,
      ...(epochs.input.value === "" ? {} : { epochs: Number(epochs.input.value) }),
      ...(rate.input.value === "" ? {} : { learning_rate: Number(rate.input.value) }),
    }),
  };
}

/** The form that makes a plan. @param {(entry: any) => void} open what was made */
function planForm(open) {
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const say = (problem) => {
    error.textContent = problem?.message ?? "";
    error.hidden = !problem;
    if (problem) error.scrollIntoView({ block: "nearest" });
  };
  const source = textSource(say, () => {});
  const fields = settingFields();
  const plan = h("button", { type: "submit", class: "main", text: "Show the plan" });
  const base = h("p", { class: "note base", role: "status" });
  const sent = new Map(); // what was planned from this page, by the runs' ids
  let planning = false;
  const settle = () => {
    const entry = entryOf(chosenModel());
    const refused = Boolean(entry) && !entry.tunable;
    plan.disabled = planning || refused;
    base.textContent = refused
      ? `${entry.name} cannot be tuned here: only models of the GPT-2 family can so far, such as ` +
        "pocket. Choose one at the top of the page."
      : `Base model: ${chosenModel()}, as chosen at the top.`;
  };
  onModels(settle);
  async function taken() {
    const text = await source.taken();
    if (!text) throw new Error("Paste a text, choose a file or take an example first.");
    const wanted = { model_name: fields.name(), settings: fields.settings() };
    return { ...text, model: chosenModel(), ...wanted };
  }

  /** @param {() => Promise<any>} body of the request */
  async function makePlan(body) {
    say(null);
    planning = true;
    settle();
    try {
      const asked = await body();
      const entry = await post("/api/tune", asked);
      sent.set(entry.id, asked);
      open(entry);
    } catch (problem) {
      say(problem);
    }
    planning = false;
    settle();
  }
  const element = h(
    "form",
    {
      class: "card form",
      onsubmit: (event) => {
        event.preventDefault();
        makePlan(taken);
      },
    },
    source.element,
    fields.element,
    h("div", { class: "row" }, plan, error),
    base,
  );

  /** The same text, model and name with other epochs; null where it was not planned from here. */
  function again({ id }) {
    const asked = sent.get(id);
    if (!asked) return null;
    return (epochs) => {
      fields.setEpochs(epochs);
      makePlan(async () => {
        await remove(`/api/tune/${encodeURIComponent(id)}`); // its name is free then
        return { ...asked, settings: { ...asked.settings, epochs } };
      });
    };
  }
  return { element, say, again };
}

/** The run that is shown, followed as it goes. */
class Shown {
  /**
   * @param {HTMLElement} root @param {() => void} changed what comes to rest or is renamed
   * @param {(entry: any) => ((epochs: number) => void) | null} again how one is planned again
   */
  constructor(root, changed, again) {
    this.again = again;
    this.root = root;
    this.changed = changed;
    this.card = null;
    this.watching = null;
  }

  open(entry) {
    const act = (verb) => this.#act(verb);
    this.card = new RunCard(this.root, entry, act, this.changed, this.again(entry));
    this.root.hidden = false;
    this.#watch(entry.id);
  }

  /** Take up what the list of all runs says of it. */
  told(all) {
    // Who comes back, or reloads the page, sees what is on its way.
    const going = all.find((entry) => !atRest(entry));
    if (!this.card) {
      if (going) this.open(going);
      return;
    }
    const entry = all.find(({ id }) => id === this.card.entry.id);
    if (!entry) this.close();
    else if (!this.watching) {
      if (!atRest(entry)) this.#watch(entry.id);
      else if (entry.model_name !== this.card.entry.model_name) this.card.take("state", entry);
    }
  }

  close() {
    this.watching?.abort();
    this.watching = this.card = null;
    this.root.hidden = true;
  }

  async #act(verb) {
    const { id } = this.card.entry;
    try {
      await post(`/api/tune/${encodeURIComponent(id)}/${verb}`);
      this.#watch(id);
    } catch (problem) {
      this.card.say(problem.message);
    }
  }

  /** Follow its events until it comes to rest. */
  async #watch(id) {
    this.watching?.abort();
    const control = new AbortController();
    this.watching = control;
    const path = `/api/tune/${encodeURIComponent(id)}`;
    try {
      for await (const { event, data } of events(
        "GET",
        `${path}/events`,
        undefined,
        control.signal,
      )) {
        if (this.watching !== control) return;
        this.card.take(event, data);
      }
      if (this.watching !== control) return;
      this.card.take("state", await get(path));
      if (this.card.entry.state === "done") await refreshModels();
      this.changed();
    } catch (problem) {
      if (!aborted(problem)) this.card?.say(problem.message);
    }
    if (this.watching === control) this.watching = null;
  }
}

/** @param {HTMLElement} root */
export function startTune(root) {
  const card = h("div", { class: "card run", hidden: true });
  const again = (entry) => form.again(entry);
  const shown = new Shown(card, () => runs.refresh(), again);
  const open = (entry) => {
    shown.open(entry);
    card.scrollIntoView({ block: "nearest" });
    runs.refresh();
  };
  const form = planForm(open);
  const runs = new RunsList({
    open,
    told: (all) => shown.told(all),
    gone: (entry) => {
      if (shown.card?.entry.id === entry.id) shown.close();
    },
    fail: form.say,
  });
  root.append(
    h(
      "div",
      { class: "intro" },
      h("h2", { text: "Tune" }),
      h("p", {
        text:
          "Tune the model on a text of yours. First you see a plan: how long " +
          "it takes and how much memory it needs. Nothing starts until you say so.",
      }),
    ),
    h("div", { class: "tune-grid" }, form.element, card, runs.element),
  );
  setInterval(() => {
    if (!root.hidden && !document.hidden) runs.refresh();
  }, LIST_MILLISECONDS);
  return { shown: () => runs.refresh() };
}
