// What the browser keeps: until the tab is closed (`session`), or until it is told to forget
// (`local`). A browser that keeps nothing, or is full, is no reason to stop.

const kept = (area) => ({
  /** @returns {any} what was kept under a name, or undefined */
  read(name) {
    try {
      return JSON.parse(area().getItem(`laplm-${name}`)) ?? undefined;
    } catch {
      return undefined;
    }
  },
  /** @returns {boolean} whether it could be kept */
  write(name, value) {
    try {
      area().setItem(`laplm-${name}`, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
});

export const session = kept(() => sessionStorage);
export const local = kept(() => localStorage);
