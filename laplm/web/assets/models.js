// The Models tab: what is on disk, how large it is, what is in memory.

import { post } from "./api.js";
import { bytes, h, replace } from "./dom.js";
import { allModels, chooseModel, chosenModel, onModels, refreshModels } from "./models-list.js";

/** Text in which `backquotes` mark what is typed. */
const withCode = (text) =>
  text.split("`").map((piece, i) => (i % 2 ? h("code", { text: piece }) : piece));

/** In which precisions a model is in memory, and what for. */
const held = ({ precision, look_precision: look }) =>
  !look || look === precision ? precision : `${precision} to write, ${look} to look inside`;

/** @param {HTMLElement} root */
export function startModels(root) {
  const cards = h("div", { class: "cards" });
  const status = h("p", { class: "status", role: "status" });
  root.append(
    h(
      "div",
      { class: "intro" },
      h("h2", { text: "Models" }),
      h("p", {
        text:
          "What is on this machine’s disk. A model is loaded when it is first " +
          "used; nothing is ever downloaded from this page.",
      }),
    ),
    cards,
    status,
    h(
      "div",
      { class: "card hint" },
      h("h3", { text: "More models" }),
      h(
        "p",
        {},
        "In a terminal, ",
        h("code", { text: "laplm pull gpt2" }),
        " fetches GPT-2 (0.5 GB) from the Hugging Face hub; ",
        h("code", { text: "distilgpt2" }),
        ", ",
        h("code", { text: "gpt2-medium" }),
        ", ",
        h("code", { text: "gpt2-large" }),
        " and ",
        h("code", { text: "gpt2-xl" }),
        " too. It is the only command that goes online.",
      ),
      h("p", {
        text: "Models that you fine-tuned are listed here as run:… when their tuning has ended.",
      }),
    ),
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

  function card(model) {
    const sizes = model.n_layer
      ? [
          [
            "parameters",
            `${(model.parameters / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} ` +
              "million",
          ],
          ["shape", `${model.n_layer} layers × ${model.n_head} heads, ${model.n_embd} wide`],
          ["context", `${model.n_ctx.toLocaleString("en")} tokens`],
          ["vocabulary", `${model.vocab_size.toLocaleString("en")} tokens`],
        ]
      : [];
    const facts = [
      ...sizes,
      ["on disk", bytes(model.bytes_on_disk)],
      ["in memory", model.loaded ? `${bytes(model.memory_bytes)}: ${held(model)}` : "not loaded"],
    ];
    const verb = model.loaded ? "unload" : "load";
    const button = h("button", {
      type: "button",
      text: model.loaded ? "Unload" : "Load",
      "aria-label": `${model.loaded ? "Unload" : "Load"} ${model.name}`,
    });
    button.addEventListener("click", () => change(verb, model.name, button));
    const current = model.name === chosenModel();
    return h(
      "article",
      { class: `card model${current ? " current" : ""}` },
      h("h3", { text: model.name }),
      h(
        "p",
        { class: "tags" },
        model.built_in ? h("span", { class: "tag", text: "built in" }) : null,
        model.run ? h("span", { class: "tag", text: "fine-tuned here" }) : null,
        model.adapter ? h("span", { class: "tag", text: "adapter" }) : null,
        model.chat ? h("span", { class: "tag", text: "conversations" }) : null,
        model.loaded ? h("span", { class: "tag on", text: "in memory" }) : null,
      ),
      model.description ? h("p", {}, withCode(model.description)) : null,
      h(
        "dl",
        { class: "facts" },
        facts.map(([name, value]) => [h("dt", { text: name }), h("dd", { text: value })]).flat(),
      ),
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

  onModels(() => replace(cards, allModels().map(card)));
  return { shown: refreshModels };
}
