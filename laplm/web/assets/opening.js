// What a tab shows by itself, slowly enough to see: until somebody does something.

const OPENING_MILLISECONDS = 110; // between two tokens

export class Opening {
  /** @param {HTMLElement} root of the tab */
  constructor(root) {
    this.pace = 0;
    // Who does something wants to see the end of it, and not to watch it being written.
    for (const kind of ["pointerdown", "keydown"]) root.addEventListener(kind, () => this.end());
  }

  begin() {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.pace = calm ? 0 : OPENING_MILLISECONDS;
  }

  end() {
    this.pace = 0;
  }
}

/** How many tokens a tab writes by itself. */
export const OPENING_TOKENS = 40;
