// The Models tab: what is on disk, how large it is, what is in memory.

import { post } from "./api.js";
import { bytes, h, replace } from "./dom.js";
import { pullCard } from "./pull.js";
import { allModels, chooseModel, chosenModel, onModels, refreshModels } from "./models-list.js";

/** Text in which `backquotes` mark what is typed. */
const withCode = (text) =>
  text.split("`").map((piece, i) => (i % 2 ? h("code", { text: piece }) : piece));

/** A path, which may go on in another line behind its slashes. */
const withBreaks = (path) =>
  path.split(/(?<=[/\\])/).flatMap((piece, i) => (i ? [h("wbr"), piece] : [piece]));

/** In which precisions a model is in memory, and what for. */
const held = ({ precision, look_precision: look }) => {
  const writes = precision === "stored" ? "as stored" : precision;
  return !look || look === precision ? writes : `${writes} to write, ${look} to look inside`;
};

const count = (n) => n.toLocaleString("en", { maximumFractionDigits: 1 });

/** What is known of a model: label and value; what is not is left out. */
function factsOf(model) {
  const { chat, n_layer: layers, stored_as: stored } = model;
  const sizes = layers && [
    ["kind", chat ? "chat: it answers messages" : "base: it goes on with a text"],
    ["shape", `${layers} layers × ${model.n_head} heads, ${model.n_embd} wide`],
    ["context", `${count(model.n_ctx)} tokens: what it can have in view`],
    ["vocabulary", `${count(model.vocab_size)} tokens: its words and pieces of words`],
  ];
  return [
    ...(sizes || []),
    ["stored as", stored],
    ["in memory", model.loaded ? `${bytes(model.memory_bytes)}: ${held(model)}` : "not loaded"],
    ["licence", model.licence],
    ["lies in", model.path],
  ].filter(([, value]) => value);
}

const tag = (told, text, kind = "tag") => (told ? h("span", { class: kind, text }) : null);

const tagsOf = (model) =>
  h(
    "p",
    { class: "tags" },
    tag(model.built_in, "built in"),
    tag(model.run, "tuned here"),
    tag(model.adapter, "adapter"),
    tag(model.chat, "chat"),
    tag(model.loaded, "in memory", "tag on"),
  );

/** The few facts that one chooses by. */
const inShort = ({ parameters, bytes_on_disk: size, family }) =>
  parameters
    ? `${family}, ${count(parameters / 1e6)} million parameters, ${bytes(size)}`
    : "what is known of it";

const wide = matchMedia("(min-width: 46em)").matches;
const opened = new Map(); // whether somebody has unfolded a card's facts, or folded them

/** All that is known of a model: folded on a phone, where a list of models is to be one. */
function factsElement(model) {
  const { name } = model;
  const element = h(
    "details",
    { open: opened.get(name) ?? wide },
    h("summary", { text: inShort(model) }),
    h(
      "dl",
      { class: "facts" },
      factsOf(model).flatMap(([what, value]) => [
        h("dt", { text: what }),
        h("dd", {}, withBreaks(value)),
      ]),
    ),
  );
  element.addEventListener("toggle", () => opened.set(name, element.open));
  return element;
}

/** @param {any} model @param {(verb: string, button: HTMLButtonElement) => void} change */
function card(model, change) {
  const [verb, label] = model.loaded ? ["unload", "Unload"] : ["load", "Load"];
  const name = `${label} ${model.name}`;
  const button = h("button", { type: "button", text: label, "aria-label": name });
  button.addEventListener("click", () => change(verb, button));
  const current = model.name === chosenModel();
  return h(
    "article",
    { class: `card model${current ? " current" : ""}` },
    h("h3", { text: model.name }),
    tagsOf(model),
    model.description ? h("p", {}, withCode(model.description)) : null,
    factsElement(model),
    h(
      "div",
      { class: "row" },
      h("button", {
        type: "button",
        class: current ? "" : "main",
        disabled: current,
        "aria-label": `Use ${model.name}`,
        text: current ? "In use" : "Use",
        onclick: () => chooseModel(model.name),
      }),
      button,
    ),
  );
}

/** @param {HTMLElement} root */
export function startModels(root) {
  const pull = pullCard();
  const cards = h("div", { class: "cards" });
  const status = h("p", { class: "status", role: "status" });
  const intro =
    "What is on this machine’s disk, what you tuned included. A model is loaded when it is " +
    "first used.";
  root.append(
    h("div", { class: "intro" }, h("h2", { text: "Models" }), h("p", { text: intro })),
    cards,
    status,
    pull.element,
  );

  async function change(verb, name, button) {
    button.disabled = true;
    status.textContent = `${name}: ${verb}ing…`;
    try {
      await post(`/api/models/${verb}`, { model: name });
      status.textContent = `${name} is ${verb}ed.`;
    } catch (error) {
      status.textContent = `${name} cannot be ${verb}ed: ${error.message}`;
    }
    await refreshModels();
  }

  onModels(() =>
    replace(
      cards,
      allModels().map((model) => card(model, (verb, button) => change(verb, model.name, button))),
    ),
  );
  return {
    shown: () => {
      refreshModels();
      pull.refresh();
    },
  };
}
