// A row of tabs as the ARIA Authoring Practices describe it: arrows move, Home and End jump.

/**
 * @param {HTMLElement} list the element with role=tablist
 * @param {(name: string) => void} shown called with the panel's id when it is shown
 */
export function startTabs(list, shown) {
  const tabs = [...list.querySelectorAll("[role=tab]")];

  const select = (tab, focus) => {
    for (const each of tabs) {
      const chosen = each === tab;
      each.setAttribute("aria-selected", String(chosen));
      each.tabIndex = chosen ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    const name = tab.getAttribute("aria-controls");
    // So that a reload, or a link, comes back to the same tab. With a slash, for a browser would
    // begin with Tab at an element of that very name, and pass by what stands above it.
    history.replaceState(null, "", `#/${name}`);
    shown(name);
  };

  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tab, false));
    tab.addEventListener("keydown", (event) => {
      const to = {
        ArrowRight: (i + 1) % tabs.length,
        ArrowLeft: (i + tabs.length - 1) % tabs.length,
        Home: 0,
        End: tabs.length - 1,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(tabs[to], true);
    });
  }
  const asked = location.hash === "#/teach" ? "tune" : location.hash.slice(2); // its name before
  select(tabs.find((tab) => tab.getAttribute("aria-controls") === asked) ?? tabs[0], false);
}
