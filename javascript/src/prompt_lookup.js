/**
 * Prompt lookup: guess the next tokens from the stream's earlier ones, and check the guesses in one step. A token is taken
 * only if it is chosen anyhow, so no answer changes. Python's `runtime/prompt_lookup.py` has source and reasons.
 */

import { DRAFT_TOKENS } from './description.js';

/** @typedef {import('./decoder.js').Decoder} Decoder */
/** @typedef {import('./state.js').State} State */
/**
 * A place of the stream whose token is expected next, and how many tokens before it the stream ends in too.
 * @typedef {{place: number, length: number}} Match
 */

const NGRAM = 3; // longest run that is looked for; longer ones point to the same place nearly always
const REACH = 16; // tokens behind the last right guess where an answer that left its source comes back to it first
const FIRST_SHARES = [0.1, 0.35, 0.65, 0.9]; // of right guesses behind runs of 1, 2, 3 and more tokens
const LEARNING = 1 / 8; // weight of one guess in its share
const LEAST_RATE = 1.1; // tokens a step that a check must promise
// Single steps that a check takes, about: the graph computes a draft in its full length. Python times them, but many
// clocks of browsers are too coarse for that.
const CHECK = 2.8;
/** Costs by the number of guesses, in single steps. */
const COSTS = Array.from({ length: DRAFT_TOKENS }, (_, guesses) => (guesses ? CHECK : 1));

/** The tokens of a stream, and the places behind each run of up to NGRAM of them. */
class NgramIndex {
  /** @type {number[]} */
  tokens = [];
  /** @type {Map<string, number[]>} */
  places = new Map();

  /** The stream goes on: the runs that ended before this token have a follower now. @param {number} tokenId */
  append(tokenId) {
    const end = this.tokens.length;
    for (let length = 1; length <= Math.min(NGRAM, end); length++) {
      const run = this.lastRun(length);
      const places = this.places.get(run);
      if (places) places.push(end);
      else this.places.set(run, [end]);
    }
    this.tokens.push(tokenId);
  }

  /**
   * The place behind the longest run that the stream ends in and that stood there before.
   * @param {number} copied place behind the last right guess @returns {Match | null}
   */
  find(copied) {
    for (let length = Math.min(NGRAM, this.tokens.length); length; length--) {
      const places = this.places.get(this.lastRun(length));
      if (places) return { place: nearest(places, copied), length };
    }
    return null;
  }

  /** @param {number} length */
  lastRun(length) {
    return this.tokens.slice(-length).join();
  }
}

/** The guesses for one answer, where right ones are likely enough to pay. */
export class Guesses {
  /** @param {number} numTokens most guesses at a time @param {readonly number[]} costs of checks, by their guesses */
  constructor(numTokens, costs = COSTS) {
    this.numTokens = numTokens;
    this.costs = costs;
    this.shares = [...FIRST_SHARES];
    this.index = new NgramIndex();
    this.copied = -REACH;
    /** @type {Match | null} */
    this.match = null;
  }

  /** Begin anew, with all that was learned. */
  forget() {
    [this.index, this.copied, this.match] = [new NgramIndex(), -REACH, null];
  }

  /** Know the tokens of a prompt. @param {readonly number[]} tokenIds */
  read(tokenIds) {
    for (const tokenId of tokenIds) this.index.append(tokenId);
    this.match = this.index.find(this.copied);
  }

  /** Learn from a token of the answer, and expect the one behind it. @param {number} tokenId */
  follow(tokenId) {
    const { match, index } = this;
    const right = match !== null && index.tokens[match.place] === tokenId;
    index.append(tokenId);
    if (match) {
      const share = shareOf(match.length);
      this.shares[share] += (Number(right) - this.shares[share]) * LEARNING;
    }
    if (match && right) {
      this.copied = match.place + 1;
      this.match = { place: this.copied, length: match.length + 1 };
    } else this.match = index.find(this.copied);
  }

  /** Tokens that followed the last ones before, at most `room`. @param {number} room */
  guess(room) {
    if (!this.match) return [];
    const { place, length } = this.match;
    const guesses = following(this.index.tokens, place, Math.min(this.numTokens, room));
    const chances = guesses.map((_, right) => this.shares[shareOf(length + right)]);
    return guesses.slice(0, bestCount(chances, this.costs));
  }
}

/**
 * The `count` tokens from a place on, and where they end, those that would follow if it went on so.
 * @param {readonly number[]} tokens @param {number} place @param {number} count
 */
function following(tokens, place, count) {
  const period = tokens.length - place;
  return Array.from({ length: count }, (_, i) => tokens[place + (i % period)]);
}

/**
 * The first of some ascending places within REACH behind the last right guess, or else the latest.
 * @param {readonly number[]} places @param {number} copied
 */
function nearest(places, copied) {
  const latest = places[places.length - 1];
  if (latest < copied) return latest;
  const first = places[firstFrom(places, copied)];
  return first < copied + REACH ? first : latest;
}

/** The index of the first of ascending numbers that is not below `least`. @param {readonly number[]} numbers @param {number} least */
function firstFrom(numbers, least) {
  let [low, high] = [0, numbers.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] < least) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The index of the share of right guesses behind a run of so many tokens. @param {number} length */
function shareOf(length) {
  return Math.min(length, FIRST_SHARES.length) - 1;
}

/**
 * The number of guesses that gives the most tokens for their cost.
 * @param {readonly number[]} chances that each guess is right where those before it are
 * @param {readonly number[]} costs of each number of guesses, from 0 on
 */
function bestCount(chances, costs) {
  let [best, bestRate, tokens, allRight] = [0, LEAST_RATE, 1, 1];
  chances.forEach((chance, i) => {
    allRight *= chance;
    tokens += allRight;
    const rate = tokens / costs[i + 1];
    if (rate > bestRate) [best, bestRate] = [i + 1, rate];
  });
  return best;
}

/** Feeds tokens to a decoder like its `forward`, but checks guesses along with them and keeps the right ones. */
export class PromptLookup {
  /**
   * @param {number} numTokens most guesses to check in one step
   * @param {readonly number[]} pastIds the tokens of the stream so far, to guess from
   */
  constructor(numTokens, pastIds = []) {
    this.guesses = new Guesses(numTokens);
    this.pastIds = pastIds;
    /** @type {number[]} */
    this.checked = []; // guesses that were checked and may still come
    /** @type {Float32Array[]} */
    this.rows = []; // logits after each of them
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
      this.checked.shift();
      return row;
    }
    [this.checked, this.rows] = [[], []];
    const guesses = tokenIds.length === 1 && room ? this.guesses.guess(room) : [];
    if (guesses.length) return this.check(decoder, state, tokenIds, guesses);
    return (await decoder.forward(state, tokenIds, calls))[0];
  }

  /**
   * Know the stream's tokens while there is room for drafts: no more of them than the window has places.
   * @param {readonly number[]} tokenIds @param {number} room
   */
  remember(tokenIds, room) {
    if (!room) this.guesses.forget();
    else if (tokenIds.length === 1 && !this.pastIds.length) this.guesses.follow(tokenIds[0]);
    else this.guesses.read([...this.pastIds, ...tokenIds]);
    this.pastIds = [];
  }

  /** @param {Decoder} decoder @param {State} state @param {readonly number[]} tokenIds @param {number[]} guesses */
  async check(decoder, state, tokenIds, guesses) {
    const [first, ...rows] = await decoder.checkDraft(state, [...tokenIds, ...guesses]);
    state.takeIn(tokenIds, null);
    this.draftedTokens += guesses.length;
    [this.checked, this.rows] = [guesses, rows];
    return first;
  }
}
