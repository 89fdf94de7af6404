// The Look inside tab: one request a change, and everything between the prompt and its next token
// drawn from the answer. What brings the token (`why`) takes longer, and follows.

import { post } from "../api.js";
import { debounce, freshId, h, keepFocus, replace, visible } from "../dom.js";
import { exampleChips, texts } from "../examples.js";
import { chosenModel, onModels } from "../models-list.js";
import { bindPrompt, onPrompt, promptText, promptTokens, setPrompt } from "../prompt.js";
import { drawWords } from "./arcs.js";
import { makeDetails } from "./details.js";
import { drawHeads } from "./heads.js";
import { Inside } from "./inside.js";
import { drawGlance, drawnOf, makeNext } from "./next.js";
import { drawPair } from "./pair.js";
import { drawRiver } from "./river.js";
import { drawSentence, plainToken } from "./sentence.js";
import { Story } from "./story.js";
import { allOn, offNames, switchedOff, togglePart } from "./switched-off.js";
import { makeWalk } from "./walk.js";
import { addsOf, bestHead, looksOf, strongestHead } from "./why.js";

const TYPING = 40; // ms without a key before the model is asked
const SETTLED = 350; // and before it is asked why
const WINDOW = 24; // positions that are shown in full
const MANY = 2000; // tokens that are asked for when the one that is drawn is none of those shown

/** What is followed and chosen. */
const freshState = () => ({
  position: null, // the word that is followed; null is the last, while nobody chose one
  layer: null,
  head: 0,
  key: null, // the other word of the pair; null is the one that is looked at most
  chosen: false, // somebody chose the head: another prompt does not change it
});

const most = (row) => row.indexOf(Math.max(...row));

/** The places of the tab that are drawn anew. */
const makePlaces = () => ({
  // Always there: what is below does not move when a part is switched off.
  offs: h("p", { class: "offs", role: "status" }),
  from: h("p", { class: "row note from" }),
  context: h("p", { class: "note context" }),
  sentence: h("p", { class: "story", "aria-live": "polite" }),
  words: h("div", { class: "words-body" }),
  river: h("section", { class: "card river-card", "aria-label": "Residual stream" }),
  heads: h("div", { class: "heads-body" }),
  headsTitle: h("h3"),
  pair: h("section", { class: "card pair", "aria-label": "Query, key and value" }),
  // Hidden from screen readers, for the bars themselves are read out.
  glance: h("p", { class: "glance", "aria-hidden": "true" }),
});

class LookTab {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.state = freshState();
    this.off = switchedOff;
    this.shown = false;
    this.seen = null;
    this.model = null;
    this.said = ""; // the sentence that is shown
    this.sought = false; // a head is to be brought into sight
    this.story = new Story();
    this.inside = new Inside(root);
    this.places = makePlaces();
    this.act = this.#actions();
    this.next = makeNext({
      settings: () => this.seen && this.#request({ lens: false }, (seen) => this.#drawBars(seen)),
      draw: () => this.#drawToken(),
      take: (item) => this.#append(item.text, item.id),
    });
    this.details = makeDetails(this.act);
    this.walk = makeWalk(root, {
      facts: () => this.#facts(),
      prepare: this.details.openPart,
    });
    // The line at the foot of a phone's screen is for while the bars are out of sight.
    new IntersectionObserver(([bars]) =>
      this.places.glance.classList.toggle("needless", bars.isIntersecting),
    ).observe(this.next.bars);
    this.storySoon = debounce(() => this.#askWhy(), SETTLED);
    this.#lay();
    this.#listen();
  }

  /** What the parts of the tab can have done. */
  #actions() {
    return {
      off: this.off,
      toggle: (part) => {
        togglePart(part);
        this.ask();
      },
      open: (layer) => this.#choose(layer, bestHead(this.story.parts, layer)?.head ?? 0),
      choose: (layer, head) => this.#choose(layer, head),
      best: (layer) => bestHead(this.story.parts, layer),
      adds: (layer, head) => addsOf(this.story.parts, layer, head),
      asked: () => this.ask(),
    };
  }

  /** What the walk points at. */
  #facts() {
    const { seen } = this;
    return seen?.block?.opened && seen.lens
      ? [seen, this.story.parts ?? null, this.state.head]
      : null;
  }

  #lay() {
    const { places, inside, walk } = this;
    const textId = freshId();
    const text = h("textarea", { id: textId, rows: 2, spellcheck: "false" });
    bindPrompt(text, "look");
    this.root.append(
      h(
        "div",
        { class: "card form look-prompt" },
        h("div", { class: "field wide" }, h("label", { for: textId, text: "Text" }), text),
        places.context,
        h(
          "div",
          { class: "row between" },
          exampleChips(texts, (taken) => setPrompt(taken)),
          walk.button,
        ),
        inside.error,
        places.from,
        h(
          "div",
          { class: "why" },
          h("span", { class: "note", text: "Why the whole model says so:" }),
          places.offs,
        ),
        places.sentence,
      ),
      h(
        "div",
        { class: "look" },
        h("div", { class: "look-words card" }, places.words),
        this.next.element,
        h("div", { class: "river-side" }, places.river),
        h(
          "section",
          { class: "card heads-card", "aria-label": "Heads" },
          places.headsTitle,
          places.heads,
        ),
        places.pair,
        this.details.element,
      ),
      inside.timing,
      places.glance,
      walk.bar,
    );
  }

  #listen() {
    const askSoon = debounce(() => this.ask(), TYPING);
    onPrompt((_, from) => {
      Object.assign(this.state, { position: from, key: null }); // what was followed may be gone
      askSoon();
    });
    document.addEventListener("themechange", () => this.seen && this.#draw(this.seen));
    onModels(() => {
      if (chosenModel() === this.model) return;
      this.model = chosenModel();
      Object.assign(this.state, freshState());
      allOn();
      this.story.forget();
      this.ask();
    });
  }

  // --- asking ---

  #asked() {
    return {
      model: chosenModel(),
      text: promptTokens()?.ids ?? promptText("look"),
      without: [...this.off],
      position: this.state.position ?? -1,
      window: WINDOW,
      ...this.next.values(),
    };
  }

  #request(more, use) {
    this.story.abort();
    this.inside.ask({ ...this.#asked(), ...more }, use);
  }

  /** Have all of it computed again. */
  ask() {
    if (!this.shown) return;
    const { state, details } = this;
    const more = { words: details.words() };
    if (state.layer !== null) Object.assign(more, { layer: state.layer, head: state.head });
    if (!details.wantsLens()) more.lens_positions = 1;
    this.#request(more, (seen) => this.#draw(seen));
  }

  /** Ask why, once nobody types any more; and open what brings the token, if nothing is chosen. */
  async #askWhy() {
    const { seen, state } = this;
    if (!this.shown || !seen) return;
    const found = await this.story.ask(seen);
    if (!found || seen !== this.seen) return;
    this.story.why = found;
    this.#drawStory();
    const best = found.story ? strongestHead(found.story) : { layer: 0, head: 0 };
    const follows = !state.chosen && (best.layer !== state.layer || best.head !== state.head);
    if (follows || state.layer === null) {
      Object.assign(state, { layer: best.layer, head: best.head, key: null });
      this.ask();
    } else this.#draw(seen);
  }

  #choose(layer, head) {
    Object.assign(this.state, { layer, head, key: null, chosen: true });
    this.ask();
  }

  // --- drawing ---

  #drawBars(seen) {
    this.next.update(seen);
    drawGlance(this.places.glance, seen);
  }

  #draw(seen) {
    const known = this.seen;
    this.seen = seen;
    const fits = this.story.fits(seen);
    this.#redraw();
    if (this.sought) this.#seek();
    if (!fits && seen !== known) this.storySoon();
  }

  #redraw() {
    keepFocus(this.root, () => this.#drawAll());
    this.walk.drawn();
  }

  #drawAll() {
    const { seen, state, places } = this;
    const opened = seen.block?.opened;
    const key = opened ? (state.key ?? seen.first + most(opened.pattern)) : null;
    drawWords(places.words, seen, {
      head: opened ? state.head : null,
      key,
      looks: opened ? looksOf(this.story.parts, seen, seen.block.layer, state.head) : null,
      follow: (at) => this.#follow(at),
      pair: (to) => this.#pairWith(to),
    });
    drawRiver(places.river, seen, this.act);
    if (opened) this.#drawBlock(key);
    this.details.update(seen);
    this.#drawBars(seen);
    this.#drawOffs();
    this.#drawContext();
    this.#drawFrom();
    this.#drawStory();
  }

  /** What comes before the text that stands in the field. */
  #drawContext() {
    const before = promptTokens()?.context;
    this.places.context.textContent = before
      ? `${before} tokens of the conversation stand before this text and are looked at too. What ` +
        "you type here is a text of its own."
      : "";
  }

  /** Once a word was chosen: that this is what comes after it, and where to see what brought it. */
  #drawFrom() {
    const { seen, state, places } = this;
    const { position: at } = seen;
    const named = (i) => `“${plainToken(seen.tokens[i])}”`;
    if (state.position === null) {
      replace(places.from);
      return;
    }
    const link = (key, text, to) =>
      h("button", {
        type: "button",
        class: "link",
        text,
        "data-key": key,
        onclick: () => this.#follow(to),
      });
    const goesOn = at + 1 < seen.tokens.length;
    replace(
      places.from,
      `What comes after ${named(at)}${goesOn ? ` (here ${named(at + 1)})` : ""}.` +
        `${at ? ` Why ${named(at)} itself was said:` : ""}`,
      at ? link("look-from", `look from ${named(at - 1)}`, at - 1) : null,
      goesOn ? link("look-on", `go on to ${named(at + 1)}`, at + 1) : null,
    );
  }

  /** The sentence, once it is known. It is of the model with all of its parts, as stands above. */
  #drawStory() {
    const { sentence } = this.places;
    const { why } = this.story;
    const said = why ? why.sentence : "Asking why…";
    if (said === this.said) return; // it is read out whenever it changes
    // While another one is asked for, what stands below stays where it is.
    sentence.style.setProperty("min-height", why ? "0" : `${sentence.offsetHeight}px`);
    this.said = said;
    drawSentence(sentence, said, (layer, head) => {
      this.sought = true;
      this.#choose(layer, head);
    });
  }

  /** Bring the switch of the head that was asked for into sight. */
  #seek() {
    this.sought = false;
    const head = this.root.querySelector(".head-card:has([aria-pressed=true])");
    head?.scrollIntoView({ block: "nearest" });
  }

  #follow(at) {
    Object.assign(this.state, { position: at, key: null });
    this.ask();
  }

  /** The heads of the block that is open, and the pair of words of one. */
  #drawBlock(key) {
    const { seen, state, places } = this;
    const { layer, patterns } = seen.block;
    places.headsTitle.textContent = `The ${patterns.length} heads of layer ${layer}`;
    drawHeads(places.heads, seen, {
      ...this.act,
      head: state.head,
      choose: (head) => this.#choose(layer, head),
    });
    drawPair(places.pair, seen, key, (to) => this.#pairWith(to));
  }

  #pairWith(key) {
    this.state.key = key;
    this.#redraw();
  }

  #drawOffs() {
    const { off } = this;
    if (!off.size) {
      replace(this.places.offs, "No part is switched off.");
      return;
    }
    const names = offNames();
    replace(
      this.places.offs,
      h("span", { class: "off-names", title: names, text: `Switched off: ${names}` }),
      h("button", {
        type: "button",
        text: "Switch all on",
        "data-key": "all-on",
        onclick: () => {
          allOn();
          this.ask();
        },
      }),
    );
  }

  // --- the next token ---

  /** Put a token behind the word that is followed: it is the last one then. */
  #append(text, id) {
    const { seen, state } = this;
    const context = Math.min(promptTokens()?.context ?? 0, seen.position + 1);
    const before = state.position !== null ? textUpTo(seen, context) : promptText("look");
    const ids = [...seen.ids.slice(0, seen.position + 1), id];
    // Somebody may have typed on since it was seen: then it is the text that counts.
    const fits = labelsOf(seen, 0).endsWith(visible(before));
    Object.assign(state, { position: null, key: null });
    setPrompt(before + text, null, fits ? { ids, context, model: this.model } : null);
  }

  /** Draw a token by the odds that are shown, and append it. */
  async #drawToken() {
    if (!this.seen) return;
    try {
      await this.#drawBy(Math.random());
    } catch (problem) {
      this.inside.fail(problem);
    }
  }

  /** @param {number} lot from 0 to 1 */
  async #drawBy(lot) {
    const { kept } = this.seen.plain;
    let from = this.seen;
    let at = drawnOf(from, lot);
    for (const k of [MANY, kept]) {
      if (at !== null) break;
      const more = { ...this.#asked(), lens: false, k: Math.min(k, kept) };
      from = (await post("/api/look/inside", more)).result;
      at = drawnOf(from, lot);
    }
    const drawn = from.next_texts[at ?? 0];
    if (drawn !== null) this.#append(drawn, from.next_ids[at ?? 0]);
  }
}

/** @param {HTMLElement} root */
export function startLook(root) {
  const tab = new LookTab(root);
  return {
    shown() {
      tab.shown = true;
      if (tab.model) tab.ask();
    },
  };
}

/** The prompt down to the token that is followed; so many tokens stand before it. */
function textUpTo(seen, context) {
  const prompt = promptText("look");
  const shown = visible(prompt); // white space is one character there too
  // A token that begins every text is none of the prompt's.
  const before = [context, context + 1]
    .map((first) => labelsOf(seen, first))
    .find((labels) => shown.startsWith(labels));
  return before === undefined ? prompt : prompt.slice(0, before.length);
}

/** The tokens from one on, down to the one that is followed, as one text. */
const labelsOf = ({ tokens, position }, first) => tokens.slice(first, position + 1).join("");
