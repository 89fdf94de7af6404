// What was on the screen before, to go back to.

const MOST_UNDONE = 30;

export class Undo {
  /** @param {HTMLButtonElement} button that is of use while there is something to undo */
  constructor(button) {
    this.button = button;
    this.before = [];
  }

  remember(state) {
    this.before.push(structuredClone(state));
    if (this.before.length > MOST_UNDONE) this.before.shift();
    this.button.disabled = false;
  }

  /** @returns {any} what was remembered last, or undefined */
  last() {
    const state = this.before.pop();
    this.button.disabled = !this.before.length;
    return state;
  }
}
