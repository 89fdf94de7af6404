// Which models there are, and which one is chosen: one list for all tabs.

import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { session } from "./storage.js";

/** @type {{default: string, models: any[]}} */
let known = { default: "", models: [] };
let select;
let problem;
const listeners = new Set();

/** Call `run` whenever the list or the choice changes. */
export const onModels = (run) => listeners.add(run);

/** The name of the chosen model. */
export const chosenModel = () => select.value || known.default;

/** The entry of a model, or undefined. */
export const entryOf = (name) => known.models.find((model) => model.name === name);

/** All entries. */
export const allModels = () => known.models;

/** Choose a model in the list. */
export function chooseModel(name) {
  select.value = name;
  tell();
}

export function startModelChoice(element, problemElement) {
  select = element;
  problem = problemElement;
  select.addEventListener("change", tell);
}

function tell() {
  session.write("model", select.value);
  listeners.forEach((run) => run());
}

/** Ask the server for the list again. */
export async function refreshModels() {
  try {
    known = await get("/api/models");
    problem.hidden = true;
  } catch (error) {
    problem.textContent = `The models cannot be listed: ${error.message}`;
    problem.hidden = false;
    return;
  }
  const before = select.value; // somebody may have chosen another one meanwhile
  replace(
    select,
    known.models.map((model) => h("option", { value: model.name, text: model.name })),
  );
  const there = (name) => known.models.some((model) => model.name === name);
  select.value = [before, session.read("model")].find(there) ?? known.default;
  tell();
}
