// Goes through the stages one by one, for a talk: Next and Back, or the arrow keys.

import { h } from "../dom.js";
import { STAGES } from "./stages.js";

/**
 * @param {(name: string) => HTMLElement | null} find the element of a stage
 * @param {(name: string) => void} prepare called for a stage that is not drawn; `drawn` is called
 *   when it is, and whenever stages were drawn anew
 * @returns {{button: HTMLButtonElement, bar: HTMLElement, drawn: () => void}}
 */
export function makeWalk(find, prepare) {
  let at = -1;
  const button = h("button", { type: "button", class: "main", text: "Walk through" });
  const place = h("span", { class: "note" });
  const title = h("strong");
  const sentence = h("p", { "aria-live": "polite" });
  const back = h("button", { type: "button", text: "Back" });
  const next = h("button", { type: "button", class: "main", text: "Next" });
  const end = h("button", { type: "button", class: "quiet", text: "End" });
  const bar = h(
    "div",
    { class: "walk", role: "group", "aria-label": "Walk through the stages", hidden: true },
    h("div", { class: "walk-words" }, h("div", { class: "row" }, title, place), sentence),
    h("div", { class: "row" }, back, next, end),
  );

  const clear = () =>
    document.querySelectorAll(".stage.here").forEach((e) => e.classList.remove("here"));

  function go(to) {
    clear();
    at = to;
    bar.hidden = at < 0;
    document.body.classList.toggle("walking", at >= 0);
    if (at < 0) {
      button.focus();
      return;
    }
    const stage = STAGES[at];
    title.textContent = stage.title;
    place.textContent = `${at + 1} of ${STAGES.length}`;
    sentence.textContent = stage.sentence;
    back.disabled = at === 0;
    next.textContent = at === STAGES.length - 1 ? "Finish" : "Next";
    if (!show()) prepare(stage.name);
  }

  /** Mark the stage and bring it to where it is seen; false when it is not drawn (yet). */
  function show() {
    const element = at < 0 ? null : find(STAGES[at].name);
    if (!element) return false;
    if (element.classList.contains("here")) return true;
    element.classList.add("here");
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const tall = element.getBoundingClientRect().height > innerHeight * 0.6;
    element.scrollIntoView({
      block: tall ? "start" : "center",
      behavior: calm ? "auto" : "smooth",
    });
    return true;
  }

  const forward = () => go(at === STAGES.length - 1 ? -1 : at + 1);
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
  return { button, bar, drawn: show };
}
