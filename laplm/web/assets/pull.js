// More models: how they come onto this disk, from here where the server may, else in a terminal.

import { get, post } from "./api.js";
import { bytes, freshId, h, replace } from "./dom.js";
import { refreshModels } from "./models-list.js";

const ASK_MILLISECONDS = 500;
const millions = (n) => `${(n / 1e6).toLocaleString("en", { maximumFractionDigits: 0 })} million`;

/** What a server without the right says. */
const inTerminal = (known) => [
  h(
    "p",
    {},
    "In a terminal, ",
    h("code", { text: "laplm pull smollm2" }),
    " fetches a model from the Hugging Face hub; no other command goes online. Started as ",
    h("code", { text: "laplm serve --allow-pull" }),
    ", this page does the same.",
  ),
  h("p", { class: "note", text: `Short names: ${known.map(({ name }) => name).join(", ")}.` }),
];

/** What is said of a name that is known. */
const about = ({ hub_id: id, parameters, licence, gated }) =>
  `${id}: ${millions(parameters)} parameters, licence ${licence}` +
  `${gated ? "; the hub gives it to those who have accepted that" : ""}`;

/** The form: a name, and a button. @param {(name: string) => void} start */
function pullForm(known, start) {
  const [id, listId] = [freshId(), freshId()];
  const input = h("input", {
    type: "text",
    id,
    list: listId,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "smollm2, owner/name, owner/name:Q4_K_M",
  });
  const note = h("p", { class: "note", "aria-live": "polite" });
  input.addEventListener("input", () => {
    const found = known.find(({ name }) => name === input.value.trim());
    note.textContent = found ? about(found) : "";
  });
  const button = h("button", { type: "submit", class: "main", text: "Pull" });
  const form = h(
    "form",
    {
      class: "form",
      onsubmit: (event) => {
        event.preventDefault();
        if (input.value.trim()) start(input.value.trim());
      },
    },
    h("label", { for: id, text: "Name on the Hugging Face hub" }),
    h("div", { class: "row pull" }, input, button),
    h(
      "datalist",
      { id: listId },
      known.map((each) => h("option", { value: each.name, label: about(each) })),
    ),
    note,
  );
  return { form, button };
}

/** How it stands, drawn anew each time it is asked. */
class Progress {
  constructor(cancel) {
    this.words = h("p", { class: "status", role: "status" });
    this.bar = h("progress", { class: "meter", "aria-label": "Bytes that have arrived" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.cancel = h("button", { type: "button", text: "Cancel", onclick: cancel });
    this.element = h("div", {}, this.words, this.bar, h("div", { class: "row" }, this.cancel));
    this.draw(null);
  }

  say(message) {
    this.problem.textContent = message;
    this.problem.hidden = !message;
  }

  draw(pull) {
    const pulling = pull?.state === "pulling";
    this.bar.hidden = this.cancel.hidden = !pulling;
    this.words.textContent = "";
    this.say(pull?.state === "failed" ? pull.message : "");
    if (pulling && pull.total) {
      [this.bar.max, this.bar.value] = [pull.total, pull.done];
      this.words.textContent = `${pull.name}: ${bytes(pull.done)} of ${bytes(pull.total)}`;
    } else if (pulling) {
      this.bar.removeAttribute("value");
      this.words.textContent = `${pull.name}: asking the hub…`;
    } else if (pull?.state === "done") {
      const more = pull.message && `; ${pull.message}`;
      this.words.textContent = `${pull.name} is here${more}.`;
    } else if (pull?.state === "cancelled") {
      this.words.textContent = `${pull.name}: ${pull.message}.`;
    }
  }
}

/** @returns {{element: HTMLElement, refresh: () => void}} */
export function pullCard() {
  const body = h("div");
  let drawn = null;
  let timer = 0;
  let pulling = false;
  const progress = new Progress(() => ask(post("/api/models/pull/cancel")));
  const start = (name) => ask(post("/api/models/pull", { name }));

  /** Draw what the server answers, and ask again while something is on its way. */
  async function ask(request) {
    clearTimeout(timer);
    let said;
    try {
      said = await request;
    } catch (problem) {
      progress.say(problem.message);
      return;
    }
    const { allowed, known, pull } = said;
    if (drawn === null) {
      drawn = pullForm(known, start);
      const offered = [drawn.form, progress.element, progress.problem];
      replace(body, ...(allowed ? offered : inTerminal(known)));
    }
    progress.draw(pull);
    drawn.button.disabled = pull?.state === "pulling";
    if (drawn.button.disabled) timer = setTimeout(refresh, ASK_MILLISECONDS);
    else if (pulling) refreshModels();
    pulling = drawn.button.disabled;
  }
  const refresh = () => ask(get("/api/models/pull"));
  return {
    element: h("div", { class: "card hint" }, h("h3", { text: "More models" }), body),
    refresh,
  };
}
