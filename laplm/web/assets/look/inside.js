// What the Look inside tab asks of the server, one request at a time.

import { aborted, post } from "../api.js";
import { h, looseSpace } from "../dom.js";
import { promptText } from "../prompt.js";

export class Inside {
  /** @param {HTMLElement} root of the tab: it says how long it took, and whether it is stale */
  constructor(root) {
    this.root = root;
    this.error = h("p", { class: "problem", role: "alert", hidden: true });
    this.timing = h("p", { class: "status" });
    this.running = null;
  }

  /** Ask the model; the request before is given up, for its answer is of no use any more. */
  async ask(body, use) {
    this.running?.abort();
    const control = new AbortController();
    this.running = control;
    if (!body.text.length) {
      this.timing.textContent = "Type something to look at.";
      return;
    }
    const start = performance.now();
    try {
      const answer = await post("/api/look/inside", body, control.signal);
      if (this.running !== control) return;
      this.error.hidden = true;
      this.root.classList.remove("stale");
      use(answer.result);
      this.#say(answer, Math.round(performance.now() - start));
    } catch (problem) {
      if (aborted(problem)) return;
      this.fail(problem);
      this.root.classList.add("stale"); // what is still shown is of the text before
    }
  }

  fail(problem) {
    this.error.textContent = problem.message;
    this.error.hidden = false;
  }

  #say({ result, seconds }, took) {
    this.timing.textContent =
      `${result.ids.length} tokens, ${result.model}: computed in ` +
      `${Math.round(1000 * seconds)} ms, shown after ${took} ms.` +
      `${looseSpace(promptText("look"))}`;
    this.root.dataset.took = String(took);
  }
}
