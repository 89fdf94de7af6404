// Bars of probability, which all have one scale: the whole width is 100 %. They stay the same
// elements when their numbers change, so that they move.

import { h, percent, replace } from "./dom.js";

const width = (p) => `${(100 * p).toFixed(2)}%`;

const NOTICED = 0.005; // a change that is smaller is none to the eye

/** One row: a token, its bar, and another behind it that shows how it was before. */
function makeRow(onTake) {
  const word = h("span", { class: "word" });
  const ghost = h("span", { class: "ghost" });
  const full = h("span", { class: "fill" });
  const number = h("span", { class: "number" });
  const parts = [word, h("span", { class: "bar", "aria-hidden": "true" }, ghost, full), number];
  let item = null;
  const button = onTake
    ? h("button", { type: "button", class: "alternative", onclick: () => onTake(item) }, parts)
    : null;
  const row = h("li", {}, button ?? parts);
  return {
    row,
    set(next) {
      item = next;
      word.textContent = next.label;
      full.style.setProperty("width", width(next.p));
      const moved = next.before !== undefined && Math.abs(next.p - next.before) >= NOTICED;
      ghost.hidden = !moved;
      if (!ghost.hidden) ghost.style.setProperty("width", width(next.before));
      replace(
        number,
        next.out ? "out" : percent(next.p),
        moved ? h("small", { text: ` was ${percent(next.before)}` }) : null,
      );
      row.className = next.out ? "gone" : next.own ? "own" : "";
      const was = next.before === undefined ? "" : `, with all parts ${percent(next.before)}`;
      const said = `${next.label}: ${percent(next.p)}${was}`;
      row.title = said;
      if (!button) return;
      button.disabled = !next.takes;
      button.dataset.key = `take:${next.label}`;
      button.setAttribute("aria-label", next.takes ? `Take ${said}` : said);
      if (next.own) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    },
  };
}

/**
 * @param {string} label what is read out for the list
 * @param {(item: any) => void} [onTake] called with the item of the bar that is clicked
 * @returns {{element: HTMLElement, update: (items: {label: string, p: number, before?: number,
 *   out?: boolean, own?: boolean, takes?: boolean}[]) => void}}
 */
export function makeProbabilityBars(label, onTake) {
  const element = h("ul", { class: "bars", "aria-label": label });
  const rows = [];
  return {
    element,
    update(items) {
      while (rows.length < items.length) rows.push(makeRow(onTake));
      items.forEach((item, i) => rows[i].set(item));
      while (element.children.length < items.length)
        element.append(rows[element.children.length].row);
      while (element.children.length > items.length) element.lastChild.remove();
    },
  };
}
