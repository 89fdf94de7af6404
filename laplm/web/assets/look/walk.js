// Goes through the steps one by one, for a talk: Next and Back, or the arrow keys. Each points at
// numbers of this prompt.

import { h } from "../dom.js";
import { STEPS } from "./steps.js";

/**
 * @param {HTMLElement} root in which the steps' places are
 * @param {{facts: () => [any, any, number] | null, prepare: (part: string) => void}} act what the
 *   steps speak of, or null while it is not there; how to open what is folded
 * @returns {{button: HTMLButtonElement, bar: HTMLElement, drawn: () => void}}
 */
export function makeWalk(root, act) {
  let at = -1;
  const button = h("button", { type: "button", text: "Walk through" });
  const place = h("span", { class: "note" });
  const title = h("strong");
  const sentence = h("p", { "aria-live": "polite" });
  const back = h("button", { type: "button", text: "Back" });
  const next = h("button", { type: "button", class: "main", text: "Next" });
  const end = h("button", { type: "button", class: "quiet", text: "End" });
  const bar = h(
    "div",
    { class: "walk", role: "group", "aria-label": "Walk through the pass", hidden: true },
    h("div", { class: "walk-words" }, h("div", { class: "row" }, title, place), sentence),
    h("div", { class: "row" }, back, next, end),
  );

  const clear = () =>
    root.querySelectorAll(".pointed").forEach((each) => each.classList.remove("pointed"));

  /** Say what is to be said, and point at where it is seen. */
  function show(scroll) {
    clear();
    const facts = act.facts();
    if (at < 0 || !facts) return;
    const step = STEPS[at];
    sentence.textContent = step.say(...facts);
    const element = root.querySelector(step.points);
    if (!element) return;
    element.classList.add("pointed");
    if (!scroll) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const tall = element.getBoundingClientRect().height > innerHeight * 0.6;
    element.scrollIntoView({
      block: tall ? "start" : "center",
      behavior: calm ? "auto" : "smooth",
    });
  }

  function go(to) {
    at = to;
    bar.hidden = at < 0;
    document.body.classList.toggle("walking", at >= 0);
    if (at < 0) {
      clear();
      button.focus();
      return;
    }
    const step = STEPS[at];
    title.textContent = step.title;
    place.textContent = `${at + 1} of ${STEPS.length}`;
    bar.dataset.step = step.name;
    back.disabled = at === 0;
    next.textContent = at === STEPS.length - 1 ? "Finish" : "Next";
    if (step.needs) act.prepare(step.needs);
    show(true);
  }

  const forward = () => go(at === STEPS.length - 1 ? -1 : at + 1);
  const backward = () => at > 0 && go(at - 1);
  button.addEventListener("click", () => {
    go(0);
    next.focus({ preventScroll: true });
  });
  next.addEventListener("click", forward);
  back.addEventListener("click", backward);
  end.addEventListener("click", () => go(-1));
  document.addEventListener("keydown", (event) => {
    if (at < 0 || bar.closest("[hidden]")) return;
    // Arrows belong to what is being typed in or moved, and to the tabs.
    if (event.target.closest("input, textarea, select, [role=tablist]")) return;
    const run = { ArrowRight: forward, ArrowLeft: backward, Escape: () => go(-1) }[event.key];
    if (!run) return;
    event.preventDefault();
    run();
  });
  return { button, bar, drawn: () => show(false) };
}
