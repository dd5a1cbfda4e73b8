/**
 * Prompt lookup: guess the next tokens from the stream's earlier ones, and check the guesses in one step. A token is taken
 * only if it is chosen anyhow, so no answer changes. Python's `runtime/prompt_lookup.py` has source and reasons.
 */

/** @typedef {import('./decoder.js').Decoder} Decoder */
/** @typedef {import('./state.js').State} State */

const NGRAM = 4; // tokens that must agree; fewer agree by chance too often to pay
const FIRST_CREDIT = 2; // so that one wrong check does not end the guessing of a whole answer
const COST = 2; // single steps that a check takes beyond the one it replaces, about
const INCOME = 1 / 64; // added to the credit by a single step: wrong guesses may cost a 64th of the time
const MOST_CREDIT = 16; // so that a long copy does not pay for long stretches of wrong guesses

/** Where each run of NGRAM tokens last stood in a stream, and the tokens behind it. */
class NgramIndex {
  /** @type {number[]} */
  tokens = [];
  /** @type {Map<string, number>} */
  followers = new Map(); // place of the token behind the run's latest end

  /** The stream goes on. @param {readonly number[]} tokenIds */
  extend(tokenIds) {
    for (const id of tokenIds) {
      // the run that ends before this token is indexed now that something follows it
      if (this.tokens.length >= NGRAM) this.followers.set(this.lastRun(), this.tokens.length);
      this.tokens.push(id);
    }
  }

  /** Up to `count` tokens that followed the last NGRAM ones when they stood there before. @param {number} count */
  guess(count) {
    const start = this.followers.get(this.lastRun());
    return start === undefined ? [] : this.tokens.slice(start, start + count);
  }

  lastRun() {
    return this.tokens.slice(-NGRAM).join();
  }
}

/** Feeds tokens to a decoder like its `forward`, but checks guesses along with them and keeps the right ones. */
export class PromptLookup {
  /**
   * @param {number} numTokens most guesses to check in one step
   * @param {readonly number[]} pastIds the tokens of the stream so far, to guess from
   */
  constructor(numTokens, pastIds = []) {
    this.numTokens = numTokens;
    this.pastIds = pastIds;
    this.index = new NgramIndex();
    /** @type {number[]} */
    this.checked = []; // guesses that were checked and may still come
    /** @type {Float32Array[]} */
    this.rows = []; // logits after each of them
    this.credit = FIRST_CREDIT;
    this.draftedTokens = 0;
    this.acceptedTokens = 0; // of the drafted ones
  }

  /**
   * Feed tokens; logits [vocab] after the last one, valid until the next call.
   * @param {Decoder} decoder @param {State} state @param {readonly number[]} tokenIds
   * @param {{signal?: AbortSignal, onPrompt?: (fed: number, of: number) => void}} calls
   * @returns {Promise<Float32Array>}
   */
  async nextLogits(decoder, state, tokenIds, calls) {
    const room = decoder.roomForDraft(state);
    this.remember(tokenIds, room);
    const row = tokenIds.length === 1 && tokenIds[0] === this.checked[0] ? this.rows.shift() : undefined;
    if (row) {
      decoder.checkState(state);
      state.takeIn(tokenIds, null);
      this.acceptedTokens++;
      this.credit = Math.min(this.credit + 1, MOST_CREDIT);
      this.checked.shift();
      return row;
    }
    [this.checked, this.rows] = [[], []];
    if (tokenIds.length === 1 && this.credit >= 0) {
      const guesses = this.index.guess(Math.min(this.numTokens, room));
      if (guesses.length) return this.check(decoder, state, tokenIds, guesses);
    }
    this.credit = Math.min(this.credit + INCOME, MOST_CREDIT);
    return (await decoder.forward(state, tokenIds, calls))[0];
  }

  /**
   * Index the stream's tokens while there is room for drafts: no more of them than the window has places.
   * @param {readonly number[]} tokenIds @param {number} room
   */
  remember(tokenIds, room) {
    if (room) this.index.extend([...this.pastIds, ...tokenIds]);
    else this.index = new NgramIndex();
    this.pastIds = [];
  }

  /** @param {Decoder} decoder @param {State} state @param {readonly number[]} tokenIds @param {number[]} guesses */
  async check(decoder, state, tokenIds, guesses) {
    const [first, ...rows] = await decoder.checkDraft(state, [...tokenIds, ...guesses]);
    state.takeIn(tokenIds, null);
    this.draftedTokens += guesses.length;
    this.credit -= COST;
    [this.checked, this.rows] = [guesses, rows];
    return first;
  }
}
