/** Spaces that some tokenizers put before punctuation, taken out again, of a whole text or of its pieces. */

// In this order. A replacement is not looked at again by its own line, but by those below it.
const REPLACEMENTS = [
  [' .', '.'],
  [' ?', '?'],
  [' !', '!'],
  [' ,', ','],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

/** @param {string} text */
export function cleanUp(text) {
  return REPLACEMENTS.reduce((cleaned, [spaced, tight]) => cleaned.replaceAll(spaced, tight), text);
}

/** Cleans a text that comes in pieces; all that comes out, put together, is the whole text cleaned. */
export class CleanUp {
  constructor() {
    this.held = '';
  }

  /** The cleaned text that nothing that follows can change. @param {string} piece */
  push(piece) {
    const text = this.held + piece;
    const end = settledLength(text);
    this.held = text.slice(end);
    return cleanUp(text.slice(0, end));
  }

  /** The cleaned text still to come if `piece` were the last; nothing is taken in. @param {string} piece */
  foresee(piece) {
    return cleanUp(this.held + piece);
  }

  /** The rest, when no more will come. */
  finish() {
    const rest = this.held;
    this.held = '';
    return cleanUp(rest);
  }
}

/**
 * Characters from the start of `text` that are cleaned by themselves as they are with anything behind them.
 * The rule is that of Python's `runtime/clean_up.py`, which has its reasons.
 * @param {string} text
 */
export function settledLength(text) {
  for (let end = text.length; end > 0; end--) {
    const before = text.slice(Math.max(end - 3, 0), end);
    const after = text.slice(end, end + 3);
    const last = before[before.length - 1];
    const startsAnew = after[0] === ' ' && last !== ' ' && last !== "'" && !before.endsWith(' n');
    const withinSpaces = after === '   ' && last === ' ';
    if (!before.includes(' ') || startsAnew || withinSpaces) return end;
  }
  return 0;
}
