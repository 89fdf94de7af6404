// The Chat tab: a conversation with a model, and those from before.

import { aborted } from "../api.js";
import { freshId, h, replace } from "../dom.js";
import { exampleChips, QUESTIONS } from "../examples.js";
import { chosenModel, entryOf } from "../models-list.js";
import { setPrompt } from "../prompt.js";
import { session } from "../storage.js";
import { showTab } from "../tabs.js";
import { makeDrawPanel } from "../write/draw-panel.js";
import { paced } from "../write/stream.js";
import { answer } from "./answer.js";
import {
  addMessage,
  branchAt,
  newConversation,
  requestMessages,
  shownMessages,
  showSibling,
  siblings,
} from "./conversation.js";
import { allTalks, saveTalk } from "./history.js";
import { makeEditor, makeMessage } from "./message.js";
import { makeChatSettings } from "./settings.js";
import { makeTalkList } from "./talk-list.js";

const OPENING = { tokens: 40, pace: 110 }; // what is answered by itself, and ms between two tokens
const SAVED_EVERY = 1000; // ms, while an answer comes

/** @param {HTMLElement} root */
export function startChat(root) {
  let talk = newConversation();
  let example = false; // what is shown asked itself, and is not kept
  let editing = null;
  let running = null;
  let pace = 0;
  let opened = false;

  const id = freshId();
  const field = h("textarea", { id, rows: 2, placeholder: "Ask something" });
  field.value = session.read("draft") ?? "";
  const send = h("button", { class: "main", type: "submit", text: "Send" });
  const stop = h("button", { type: "button", text: "Stop", disabled: true });
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const said = h("div", { class: "messages" });
  const spoken = h("p", { class: "unseen", "aria-live": "polite" });
  const panel = makeDrawPanel();
  const settings = makeChatSettings((system) => {
    talk.system = system;
  });
  const list = makeTalkList({
    open: (chosen) => show(chosen),
    begin: () => begin(),
    gone: () => begin(),
    current: () => talk,
  });
  const form = h(
    "form",
    { class: "card form composer" },
    h("div", { class: "field wide" }, h("label", { for: id, text: "Message" }), field),
    h(
      "div",
      { class: "row" },
      send,
      stop,
      h("span", { class: "note", text: "Enter sends, Shift + Enter begins a line" }),
    ),
    error,
    settings.element,
  );
  const examples = exampleChips(QUESTIONS, (text) => {
    if (example) begin();
    ask(text);
  });
  root.append(
    h(
      "div",
      { class: "chat-grid" },
      list.element,
      h("div", { class: "talk" }, examples, said, form),
      panel.element,
    ),
    spoken,
  );

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    const text = field.value;
    field.value = "";
    session.write("draft", "");
    if (example) begin();
    ask(text);
  });
  field.addEventListener("input", () => session.write("draft", field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  stop.addEventListener("click", () => running?.abort());
  for (const kind of ["pointerdown", "keydown"])
    root.addEventListener(kind, () => {
      pace = 0;
    });

  const keep = () => {
    if (example || saveTalk(talk)) return;
    error.textContent = "The browser has no room to keep this conversation; export it.";
    error.hidden = false;
  };

  function show(chosen) {
    running?.abort();
    talk = chosen;
    example = false;
    editing = null;
    error.hidden = true;
    session.write("chat", talk.id);
    settings.showSystem(talk.system);
    panel.clear();
    draw();
  }

  function begin() {
    show(newConversation(talk.system));
    field.focus();
  }

  /** All messages, and what can be done to each. @returns {Map<string, any>} by their ids */
  function draw() {
    const made = new Map();
    const elements = shownMessages(talk).map((message) => {
      const one = message === editing ? edit(message) : view(message);
      made.set(message.id, one);
      return one.element;
    });
    replace(said, elements);
    list.draw();
    return made;
  }

  function view(message) {
    const beside = siblings(talk, message);
    const place = {
      at: beside.indexOf(message),
      of: beside.length,
      show(to) {
        showSibling(talk, beside[to]);
        keep();
        draw();
      },
    };
    return makeMessage(message, actionsOf(message), place);
  }

  function actionsOf(message) {
    const copy = { name: "Copy", run: () => copyText(message.text) };
    const branch = { name: "Branch", run: () => branchFrom(message) };
    if (message.role === "user") {
      const change = () => {
        editing = message;
        draw().get(message.id).focus();
      };
      return [{ name: "Edit", run: change }, copy];
    }
    return [
      { name: "Look inside", run: () => look(message) },
      { name: "Again", run: () => reply(message.parent) },
      branch,
      copy,
    ];
  }

  async function copyText(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      error.textContent = "The browser does not allow to copy.";
      error.hidden = false;
    }
  }

  function edit(message) {
    const leave = () => {
      editing = null;
      draw();
    };
    return makeEditor(
      message,
      (text) => {
        editing = null;
        example = false;
        reply(addMessage(talk, message.parent, "user", text).id);
      },
      leave,
    );
  }

  function branchFrom(message) {
    const branch = branchAt(talk, message);
    saveTalk(branch);
    show(branch);
  }

  function look(message) {
    setPrompt(message.text.trim());
    showTab("look");
  }

  function ask(text) {
    reply(addMessage(talk, talk.last, "user", text).id);
  }

  /** Have a message answered; one that is answered already gets another answer. */
  async function reply(question, tokens) {
    running?.abort();
    const control = new AbortController();
    running = control;
    const here = talk;
    const asked = requestMessages(talk, question);
    const message = addMessage(talk, question, "assistant");
    const drawn = draw().get(message.id);
    error.hidden = true;
    stop.disabled = false;
    said.setAttribute("aria-busy", "true");
    keep();
    const begun = performance.now();
    let count = 0;
    let saved = begun;
    try {
      const body = { model: chosenModel(), messages: asked, ...settings.values() };
      if (tokens) Object.assign(body, { max_tokens: tokens, temperature: 0 });
      for await (const piece of paced(answer(body, control.signal), () => pace)) {
        message.text += piece.text;
        count += piece.tokens.length;
        if (piece.tokens.length) panel.drawn(piece.tokens.at(-1));
        if (piece.ended === "length") message.note = "It reached the most tokens that are set.";
        drawn.update();
        follow(drawn.element);
        if (performance.now() - saved > SAVED_EVERY) {
          saved = performance.now();
          keep();
        }
      }
    } catch (problem) {
      if (aborted(problem)) message.note = "Stopped.";
      else {
        message.note = "Failed.";
        error.textContent = problem.message;
        error.hidden = false;
      }
    }
    const seconds = (performance.now() - begun) / 1000;
    if (count) message.note = `${rate(count, seconds)} ${message.note}`.trim();
    drawn.update();
    if (here !== talk) {
      saveTalk(here);
      list.draw();
      return;
    }
    keep();
    list.draw();
    if (running !== control) return;
    running = null;
    pace = 0;
    stop.disabled = true;
    said.removeAttribute("aria-busy");
    spoken.textContent = message.text;
  }

  const rate = (count, seconds) =>
    `${count} tokens, ${Math.round(count / Math.max(seconds, 0.001))} tokens/s.`;

  /** Keep the end of an answer in sight, if that is where one reads. */
  function follow(element) {
    const { bottom } = element.getBoundingClientRect();
    if (bottom > innerHeight && bottom < innerHeight + 120)
      element.scrollIntoView({ block: "end" });
  }

  /** What was open before a reload; else an example that answers itself, to be seen. */
  function open() {
    opened = true;
    const before = allTalks().find((each) => each.id === session.read("chat"));
    if (before) {
      show(before);
      return;
    }
    example = true;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    pace = calm ? 0 : OPENING.pace;
    reply(addMessage(talk, null, "user", QUESTIONS[0]).id, OPENING.tokens);
  }

  return {
    shown() {
      if (!opened && entryOf(chosenModel())?.chat) open();
      list.draw();
    },
  };
}
