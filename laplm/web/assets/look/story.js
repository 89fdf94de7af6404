// Why the next token is what it is: asked once nobody types any more, for it takes a second pass.

import { aborted } from "../api.js";
import { chosenModel } from "../models-list.js";
import { askWhy } from "./why.js";

const isOf = (why, seen) =>
  why.model === seen.model && String(why.ids) === String(seen.ids.slice(0, seen.position + 1));

export class Story {
  constructor() {
    this.why = null; // of what is shown, once it is known
    this.asking = null;
  }

  /** The blocks' and heads' shares; undefined or null where they are not known. */
  get parts() {
    return this.why?.story;
  }

  forget() {
    this.why = null;
  }

  abort() {
    this.asking?.abort();
  }

  /** Whether it is that of what is seen; another one is forgotten. */
  fits(seen) {
    if (this.why && !isOf(this.why, seen)) this.why = null;
    return this.why !== null;
  }

  /** Ask. @returns {Promise<any>} what was found, or null where nobody wants it any more */
  async ask(seen) {
    const ids = seen.ids.slice(0, seen.position + 1);
    if (this.why && isOf(this.why, seen)) return null;
    this.asking = new AbortController();
    try {
      return { ...(await askWhy(chosenModel(), ids, this.asking.signal)), model: seen.model, ids };
    } catch (problem) {
      if (aborted(problem)) return null;
      // Logits of this kind are not split.
      const sentence =
        `After “${seen.tokens[seen.position]}” the likeliest token is ` +
        `“${seen.next_tokens[0]}”.`;
      return { sentence, story: null, model: seen.model, ids };
    }
  }
}
