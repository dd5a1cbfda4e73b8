/** Token ids to text, one token at a time, never splitting a character: Python's `runtime/detokenizer.py`. */

import { CleanUp } from './clean_up.js';

const REPLACEMENT_CHARACTER = '\ufffd';
const LONGEST_RUN = 32; // tokens without one settled character are garbage beyond this
const MOST_TOKENS_IN_CHARACTER = 4;

/** Turns one stream of tokens into pieces of text; all pieces together are the decoding of all tokens. */
export class Detokenizer {
  /** @param {import('./tokenizer.js').Tokenizer} tokenizer */
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.cleanUp = tokenizer.cleanUpTokenizationSpaces ? new CleanUp() : null;
    /** @type {number[]} */
    this.context = [];
    this.contextText = '';
    /** @type {number[]} */
    this.pending = [];
    this.uncleaned = ''; // text of the pending tokens, which may still change
  }

  /** Take the next token and return the text that no later token can change, often ''. @param {number} tokenId */
  push(tokenId) {
    const piece = this.decoded(tokenId);
    return this.cleanUp === null ? piece : this.cleanUp.push(piece);
  }

  /** Text of the tokens that have not come out yet; it may still change. */
  get unsettled() {
    return this.cleanUp === null ? this.uncleaned : this.cleanUp.foresee(this.uncleaned);
  }

  /** The text of tokens still pending, incomplete characters as U+FFFD. */
  finish() {
    const piece = this.pending.length ? this.settle(this.decode([...this.context, ...this.pending])) : '';
    return this.cleanUp === null ? piece : this.cleanUp.push(piece) + this.cleanUp.finish();
  }

  /** @param {number[]} tokenIds */
  decode(tokenIds) {
    return this.tokenizer.decode(tokenIds, { cleanUp: false });
  }

  /** Take the next token; the text, not cleaned up, that no later token can change. @param {number} tokenId */
  decoded(tokenId) {
    if (this.tokenizer.isSilent(tokenId)) return '';
    this.pending.push(tokenId);
    const text = this.decode([...this.context, ...this.pending]);
    // A group of byte tokens is valid or not as a whole, so it is settled only by the token after it.
    if (!text.endsWith(REPLACEMENT_CHARACTER) && !this.tokenizer.isByte(tokenId)) return this.settle(text);
    if (this.pending.length > LONGEST_RUN) return this.cut(text);
    this.uncleaned = text.slice(this.contextText.length);
    return '';
  }

  /** @param {string} text */
  settle(text) {
    const piece = text.slice(this.contextText.length);
    // A token that shows nothing, such as a space at the start, cannot serve as context alone.
    this.context = piece ? this.pending : [...this.context, ...this.pending];
    this.contextText = this.decode(this.context);
    this.pending = [];
    this.uncleaned = '';
    return piece;
  }

  /** Settle all but the last few pending tokens, where the text can be cut in two. @param {string} text */
  cut(text) {
    const newest = this.pending.length;
    const first = newest - 2 * MOST_TOKENS_IN_CHARACTER;
    for (let cut = newest - MOST_TOKENS_IN_CHARACTER + 1; cut > first; cut--) {
      const head = this.decode([...this.context, ...this.pending.slice(0, cut)]);
      const tail = this.decode(this.pending.slice(cut));
      if (head + tail === text) {
        const piece = head.slice(this.contextText.length);
        [this.context, this.contextText, this.pending] = [[], '', this.pending.slice(cut)];
        this.uncleaned = tail;
        return piece;
      }
    }
    this.uncleaned = text.slice(this.contextText.length);
    return '';
  }
}
