// A row of tabs as the ARIA Authoring Practices describe it: arrows move, Home and End jump.

import { readAddress } from "./address.js";
import { addressTab, setPrompt } from "./prompt.js";

let tabs = [];
let whenShown = () => {};
const there = () => tabs.filter((tab) => !tab.hidden);
const named = (name) => there().find((tab) => tab.getAttribute("aria-controls") === name);

function select(tab, focus, anew = false) {
  // Another tab is read from its top.
  if (tab.getAttribute("aria-selected") !== "true") scrollTo(0, 0);
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  const name = tab.getAttribute("aria-controls");
  addressTab(name);
  whenShown(name, anew);
}

/**
 * Show a tab, from another one.
 * @param {string} name @param {boolean} [anew] it begins as the page does, with something to see
 */
export function showTab(name, anew = false) {
  const tab = named(name);
  if (tab) select(tab, false, anew);
}

/**
 * @param {HTMLElement} list the element with role=tablist
 * @param {(name: string, anew: boolean) => void} shown called with the panel's id when it is shown
 */
export function startTabs(list, shown) {
  tabs = [...list.querySelectorAll("[role=tab]")];
  whenShown = shown;
  for (const tab of tabs) {
    tab.addEventListener("click", () => select(tab, false));
    tab.addEventListener("keydown", (event) => {
      const all = there();
      const i = all.indexOf(tab);
      const to = {
        ArrowRight: (i + 1) % all.length,
        ArrowLeft: (i + all.length - 1) % all.length,
        Home: 0,
        End: all.length - 1,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(all[to], true);
    });
  }
  addEventListener("hashchange", () => {
    const { tab: name, text } = readAddress();
    if (text !== null) setPrompt(text);
    if (named(name)) select(named(name), false);
  });
}

/** Show what the address asks for, or else the first tab that there is. */
export function openAddress() {
  select(named(readAddress().tab) ?? there()[0], false);
}

/** Have a tab in the row, or not; who is on one that goes is shown the first that stays. */
export function offerTab(name, offered) {
  const tab = tabs.find((each) => each.getAttribute("aria-controls") === name);
  if (tab.hidden === !offered) return;
  tab.hidden = !offered;
  if (!offered && tab.getAttribute("aria-selected") === "true") select(there()[0], false);
}
