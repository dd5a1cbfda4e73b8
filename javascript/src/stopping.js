/** Stop strings: end an answer at the first of some texts, although the text comes in pieces. */

/** Passes text through until a stop string appears; keeps back the end of the text while one may be starting. */
export class StopStrings {
  /** @param {readonly string[]} stop none empty */
  constructor(stop) {
    this.stop = stop;
    this.held = '';
    this.found = false;
  }

  /** Take the next piece; the text that is now certain to belong to the answer. @param {string} piece */
  push(piece) {
    if (this.found) return '';
    const text = this.held + piece;
    const starts = this.stop.map((stop) => text.indexOf(stop)).filter((start) => start >= 0);
    if (starts.length) {
      this.found = true;
      this.held = '';
      return text.slice(0, Math.min(...starts));
    }
    const certain = text.length - this.possibleStart(text);
    this.held = text.slice(certain);
    return text.slice(0, certain);
  }

  /** Whether a stop string would be found if `piece` came next; nothing is taken in. @param {string} piece */
  completedBy(piece) {
    const text = this.held + piece;
    return this.stop.some((stop) => text.includes(stop));
  }

  /** The text kept back, to be called when no more will come. */
  finish() {
    const rest = this.held;
    this.held = '';
    return rest;
  }

  /** Length of the longest end of `text` with which a stop string begins. @param {string} text */
  possibleStart(text) {
    const longest = Math.min(text.length, Math.max(0, ...this.stop.map((stop) => stop.length - 1)));
    for (let length = longest; length > 0; length--) {
      if (this.stop.some((stop) => stop.startsWith(text.slice(-length)))) return length;
    }
    return 0;
  }
}
