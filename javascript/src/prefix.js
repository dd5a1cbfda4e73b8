/**
 * One stream that knows its tokens and is moved from sequence to sequence, so a shared beginning is computed once:
 * Python's `runtime/prefix.py`.
 */

/** @typedef {import('./state.js').State} State */

/** The number of tokens that two sequences have in common from their start on. */
export function sharedLength(/** @type {readonly number[]} */ first, /** @type {readonly number[]} */ second) {
  const length = Math.min(first.length, second.length);
  for (let i = 0; i < length; i++) if (first[i] !== second[i]) return i;
  return length;
}

/**
 * A state and the tokens of its stream. Once a state's window has overflowed it cannot go back. `remember` keeps a copy
 * to return to; without one that is early enough, the stream begins anew and its tokens are fed again.
 */
export class SharedPrefix {
  /** @param {import('./decoder.js').Decoder} decoder @param {State} [state] @param {readonly number[]} [tokens] */
  constructor(decoder, state, tokens = []) {
    this.decoder = decoder;
    this.state = state ?? decoder.newState();
    this.tokens = [...tokens]; // of these the state holds the first `state.position`
    /** @type {State | null} */
    this.remembered = null;
  }

  /**
   * Take the state back to the beginning it shares with a sequence, or further where keys of it are evicted.
   * @param {readonly number[]} tokens
   */
  holdOnly(tokens) {
    this.state.checkFree();
    const shared = sharedLength(this.tokens.slice(0, this.state.position), tokens);
    if (shared < this.state.position && this.state.overflowed) this.goBack(shared);
    const held = Math.min(shared, this.state.position);
    this.state.truncate(held);
    this.tokens.length = held;
  }

  /** The copy in place of the state, or a new state where the copy came too late. @param {number} shared */
  goBack(shared) {
    const copy = this.remembered;
    this.remembered = null;
    const isTooLate = copy?.overflowed && copy.position > shared;
    if (isTooLate) copy.dispose();
    this.state.dispose();
    this.state = copy && !isTooLate ? copy : this.decoder.newState();
  }

  /** Keep a copy of the state as it is, for `holdOnly` to return to. */
  remember() {
    this.forget();
    this.remembered = this.state.copy();
  }

  /** Give that copy up. */
  forget() {
    this.remembered?.dispose();
    this.remembered = null;
  }

  /** Give the memory back. */
  dispose() {
    this.forget();
    this.state.dispose();
  }
}
