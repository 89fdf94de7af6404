// The Chat tab: a conversation with a model, and those from before.

import { aborted } from "../api.js";
import { copyText } from "../clipboard.js";
import { h, replace } from "../dom.js";
import { exampleChips, questions } from "../examples.js";
import { chosenModel, entryOf } from "../models-list.js";
import { Opening, OPENING_TOKENS } from "../opening.js";
import { setPrompt } from "../prompt.js";
import { session } from "../storage.js";
import { showTab } from "../tabs.js";
import { makeDrawPanel } from "../write/draw-panel.js";
import { paced } from "../write/stream.js";
import { answer, promptIds } from "./answer.js";
import {
  addMessage,
  branchAt,
  newConversation,
  requestMessages,
  shownMessages,
  showSibling,
  siblings,
} from "./conversation.js";
import { makeComposer, makeParts } from "./form.js";
import { allTalks, saveTalk } from "./history.js";
import { makeEditor, makeMessage } from "./message.js";
import { makeChatSettings } from "./settings.js";
import { makeTalkList } from "./talk-list.js";

const SAVED_EVERY = 1000; // ms, while an answer comes

class ChatTab {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.talk = newConversation();
    this.example = false; // what is shown asked itself, and is not kept
    this.editing = null;
    this.running = null;
    this.opening = new Opening(root);
    this.parts = makeParts();
    this.panel = makeDrawPanel();
    this.settings = makeChatSettings((system) => {
      this.talk.system = system;
    });
    this.list = makeTalkList({
      open: (chosen) => this.#show(chosen),
      begin: () => this.#begin(),
      gone: () => this.#begin(),
      current: () => this.talk,
    });
    const ask = (text) => {
      if (this.example) this.#begin();
      this.#ask(text);
    };
    const composer = makeComposer(this.parts, this.settings, ask);
    const column = [exampleChips(questions, ask), this.parts.said, composer];
    root.append(
      h(
        "div",
        { class: "chat-grid" },
        this.list.element,
        h("div", { class: "talk" }, column),
        this.panel.element,
      ),
      this.parts.spoken,
    );
    this.parts.stop.addEventListener("click", () => this.running?.abort());
  }

  /** What was open before a reload; else an example that answers itself, to be seen. */
  open() {
    const before = allTalks().find((each) => each.id === session.read("chat"));
    if (before) {
      this.#show(before);
      return;
    }
    this.openExample();
  }

  /** An example answers itself, to be seen. */
  openExample() {
    this.#show(newConversation(this.talk.system));
    this.example = true;
    this.opening.begin();
    this.#reply(addMessage(this.talk, null, "user", questions()[0]).id, OPENING_TOKENS);
  }

  // --- conversations ---

  #keep() {
    if (this.example || saveTalk(this.talk)) return;
    this.#fail("The browser has no room to keep this conversation; export it.");
  }

  #fail(message) {
    this.parts.error.textContent = message;
    this.parts.error.hidden = false;
  }

  #show(chosen) {
    this.running?.abort();
    this.talk = chosen;
    this.example = false;
    this.editing = null;
    this.parts.error.hidden = true;
    session.write("chat", this.talk.id);
    this.settings.showSystem(this.talk.system);
    this.panel.clear();
    this.#draw();
  }

  #begin() {
    this.#show(newConversation(this.talk.system));
    this.parts.field.focus();
  }

  // --- messages ---

  /** All messages, and what can be done to each. @returns {Map<string, any>} by their ids */
  #draw() {
    const made = new Map();
    const elements = shownMessages(this.talk).map((message) => {
      const one = message === this.editing ? this.#editor(message) : this.#view(message);
      made.set(message.id, one);
      return one.element;
    });
    replace(this.parts.said, elements);
    this.list.draw();
    return made;
  }

  #view(message) {
    const beside = siblings(this.talk, message);
    const place = {
      at: beside.indexOf(message),
      of: beside.length,
      show: (to) => {
        showSibling(this.talk, beside[to]);
        this.#keep();
        this.#draw();
      },
    };
    return makeMessage(message, this.#actionsOf(message), place);
  }

  #actionsOf(message) {
    const copy = { name: "Copy", run: () => this.#copy(message.text) };
    if (message.role === "user") {
      const change = () => {
        this.editing = message;
        this.#draw().get(message.id).focus();
      };
      return [{ name: "Edit", run: change }, copy];
    }
    return [
      { name: "Look inside", run: () => this.#look(message) },
      { name: "Again", run: () => this.#reply(message.parent) },
      { name: "Branch", run: () => this.#branchFrom(message) },
      copy,
    ];
  }

  /** Look inside at the answer's own tokens, behind the conversation that it answers. */
  async #look({ text, ids, model, parent }) {
    let made = null;
    if (ids?.length && model === chosenModel()) {
      try {
        const before = await promptIds(model, requestMessages(this.talk, parent));
        made = { ids: [...before, ...ids], context: before.length, model };
      } catch (problem) {
        this.#fail(problem.message);
        return;
      }
    }
    setPrompt(made ? text : text.trim(), null, made);
    showTab("look");
  }

  async #copy(text) {
    const problem = await copyText(text);
    if (problem) this.#fail(problem);
  }

  #editor(message) {
    const send = (text) => {
      this.editing = null;
      this.example = false;
      this.#reply(addMessage(this.talk, message.parent, "user", text).id);
    };
    const leave = () => {
      this.editing = null;
      this.#draw();
    };
    return makeEditor(message, send, leave);
  }

  #branchFrom(message) {
    const branch = branchAt(this.talk, message);
    saveTalk(branch);
    this.#show(branch);
  }

  // --- answers ---

  #ask(text) {
    this.#reply(addMessage(this.talk, this.talk.last, "user", text).id);
  }

  /** Have a message answered; one that is answered already gets another answer. */
  async #reply(question, tokens) {
    this.running?.abort();
    const control = new AbortController();
    this.running = control;
    const { talk } = this;
    const body = {
      model: chosenModel(),
      messages: requestMessages(talk, question),
      ...this.settings.values(),
    };
    if (tokens) Object.assign(body, { max_tokens: tokens, temperature: 0 });
    const message = addMessage(talk, question, "assistant");
    Object.assign(message, { model: body.model, ids: [] });
    const drawn = this.#draw().get(message.id);
    this.parts.error.hidden = true;
    this.parts.stop.disabled = false;
    this.parts.said.setAttribute("aria-busy", "true");
    this.#keep();
    const begun = performance.now();
    const count = await this.#receive(body, control.signal, message, drawn);
    const seconds = (performance.now() - begun) / 1000;
    if (count) message.note = `${rate(count, seconds)} ${message.note}`.trim();
    drawn.update();
    this.#ended(talk, control, message);
  }

  /** Add an answer to a message as it comes. @returns {Promise<number>} its tokens */
  async #receive(body, signal, message, drawn) {
    let count = 0;
    let saved = performance.now();
    try {
      for await (const piece of paced(answer(body, signal), () => this.opening.pace)) {
        message.text += piece.text;
        count += piece.tokens.length;
        message.ids.push(...piece.ids);
        if (piece.tokens.length) this.panel.drawn(piece.tokens.at(-1));
        if (piece.ended === "length") message.note = "It reached the most tokens that are set.";
        drawn.update();
        follow(drawn.element);
        if (performance.now() - saved > SAVED_EVERY) {
          saved = performance.now();
          this.#keep();
        }
      }
    } catch (problem) {
      message.note = aborted(problem) ? "Stopped." : "Failed.";
      if (!aborted(problem)) this.#fail(problem.message);
    }
    return count;
  }

  /** Keep what was answered, though another conversation may be shown by now. */
  #ended(talk, control, message) {
    if (talk !== this.talk) {
      saveTalk(talk);
      this.list.draw();
      return;
    }
    this.#keep();
    this.list.draw();
    if (this.running !== control) return;
    this.running = null;
    this.opening.end();
    this.parts.stop.disabled = true;
    this.parts.said.removeAttribute("aria-busy");
    this.parts.spoken.textContent = message.text;
  }
}

const rate = (count, seconds) =>
  `${count} tokens, ${Math.round(count / Math.max(seconds, 0.001))} tokens/s.`;

/** Keep the end of an answer in sight, if that is where one reads. */
function follow(element) {
  const { bottom } = element.getBoundingClientRect();
  if (bottom > innerHeight && bottom < innerHeight + 120) element.scrollIntoView({ block: "end" });
}

/** @param {HTMLElement} root */
export function startChat(root) {
  const tab = new ChatTab(root);
  let opened = false;
  return {
    shown(anew) {
      if ((anew || !opened) && entryOf(chosenModel())?.chat) {
        opened = true;
        if (anew) tab.openExample();
        else tab.open();
      }
      tab.list.draw();
    },
  };
}
