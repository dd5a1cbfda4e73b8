/** Options that change logits before a token is chosen, in the order of Python's `runtime/logits_processors.py`. */

import { OptionError } from './errors.js';
import { applyRepetitionPenalty } from './sampling.js';

/** @typedef {import('./generation_options.js').GenerationOptions} GenerationOptions */

/** The options of one answer at work; `append` tells them of each token that was chosen. */
export class LogitsProcessors {
  /**
   * @param {GenerationOptions} options
   * @param {ReadonlySet<number>} endIds tokens that end the answer
   * @param {readonly number[]} pastIds the tokens before the answer, as far as they are known
   */
  constructor(options, endIds, pastIds) {
    this.options = options;
    this.endIds = [...endIds].sort((a, b) => a - b);
    this.bias = new Sequences(options.sequenceBias);
    // As in transformers, an end is not ruled out as a bad word; ignoreEos is there for that.
    const badWords = options.badWordsIds.filter((word) => word.length > 1 || !endIds.has(word[0]));
    this.badWords = new Sequences(badWords.map((word) => [word, -Infinity]));
    const biases = [...options.sequenceBias, ...options.logitBias].map(([, bias]) => bias);
    this.biasesRuleOut = biases.includes(-Infinity);
    this.penalisesAnswer = options.presencePenalty !== 0 || options.frequencyPenalty !== 0;
    /** @type {Map<number, number>} */
    this.counts = new Map(); // of each token in the answer
    this.newTokens = 0;
    this.longest = Math.max(this.bias.longest, this.badWords.longest);
    this.remembersAll = options.noRepeatNgramSize > 0;
    /** @type {number[]} */
    this.tokens = [];
    const known = this.remembersAll ? pastIds : pastIds.slice(Math.max(pastIds.length - this.longest, 0));
    for (const tokenId of known) this.remember(tokenId);
  }

  /**
   * The same array when nothing changes it. OptionError when every token is ruled out.
   * @param {Float32Array} logits [vocab] @param {{seenTokens(): Iterable<number>}} state
   */
  process(logits, state) {
    const { options } = this;
    if (options.sequenceBias.length) logits = addBias(logits, this.bias.completedBy(this.tokens));
    if (options.logitBias.length) logits = addBias(logits, options.logitBias);
    if (options.repetitionPenalty !== 1) {
      logits = applyRepetitionPenalty(logits, state.seenTokens(), options.repetitionPenalty);
    }
    if (this.counts.size) {
      logits = applyCountPenalties(logits, this.counts, options.presencePenalty, options.frequencyPenalty);
    }
    if (options.forcedEosTokenId.length && this.newTokens === options.maxNewTokens - 1) {
      return this.without(only(logits, options.forcedEosTokenId), this.suppressed());
    }
    return this.without(logits, [...this.repeated(), ...this.suppressed()]);
  }

  /** The answer goes on with this token. @param {number} tokenId */
  append(tokenId) {
    this.newTokens++;
    if (this.penalisesAnswer) this.counts.set(tokenId, (this.counts.get(tokenId) ?? 0) + 1);
    this.remember(tokenId);
  }

  /** @param {number} tokenId */
  remember(tokenId) {
    if (this.remembersAll || this.longest) this.tokens.push(tokenId);
    if (!this.remembersAll && this.tokens.length > 2 * this.longest) {
      this.tokens.splice(0, this.tokens.length - this.longest); // no sequence reaches further back
    }
  }

  /** Tokens that are ruled out by those before them. */
  repeated() {
    const ruledOut = this.remembersAll ? ngramEnds(this.tokens, this.options.noRepeatNgramSize) : [];
    if (this.options.badWordsIds.length) ruledOut.push(...this.badWords.completedBy(this.tokens).map(([id]) => id));
    if (this.newTokens < this.options.minNewTokens) ruledOut.push(...this.endIds);
    return ruledOut;
  }

  /** Tokens that are ruled out by themselves. */
  suppressed() {
    const { suppressTokens, beginSuppressTokens } = this.options;
    return this.newTokens === 0 ? [...suppressTokens, ...beginSuppressTokens] : suppressTokens;
  }

  /** @param {Float32Array} logits @param {readonly number[]} ids */
  without(logits, ids) {
    const left = ids.length ? ruleOut(logits, ids) : logits;
    if ((ids.length || this.biasesRuleOut) && left.every((logit) => logit === -Infinity)) {
      throw new OptionError(
        `no token is left to choose: ${this.names().join(' and ')} rule all of them out; leave one of these options away`,
      );
    }
    return left;
  }

  /** The options in use that rule tokens out. */
  names() {
    const { options } = this;
    const lists = /** @type {const} */ ([
      'suppressTokens',
      'beginSuppressTokens',
      'badWordsIds',
      'sequenceBias',
      'logitBias',
    ]);
    const numbers = /** @type {const} */ (['noRepeatNgramSize', 'minNewTokens']);
    return [...numbers.filter((name) => options[name]), ...lists.filter((name) => options[name].length)];
  }
}

/** Sequences of tokens with a number each, found by the tokens before their last one. */
export class Sequences {
  /** @param {readonly (readonly [readonly number[], number])[]} sequences none empty; of equal ones the last counts */
  constructor(sequences) {
    /** @type {Map<string, [readonly number[], number]>} */
    const different = new Map(sequences.map(([ids, number]) => [ids.join(), [ids, number]]));
    /** @type {Map<string, [number, number][]>} */
    this.ends = new Map();
    const lengths = new Set();
    for (const [ids, number] of different.values()) {
      const beginning = ids.slice(0, -1).join();
      if (!this.ends.has(beginning)) this.ends.set(beginning, []);
      this.ends.get(beginning)?.push([ids[ids.length - 1], number]);
      lengths.add(ids.length - 1);
    }
    /** @type {number[]} */
    this.lengths = [...lengths].sort((a, b) => a - b);
    this.longest = Math.max(0, ...this.lengths); // tokens before the last one of the longest sequence
  }

  /**
   * Tokens that would complete a sequence, with the numbers of these sequences.
   * @param {readonly number[]} tokens
   */
  completedBy(tokens) {
    const fitting = this.lengths.filter((length) => length <= tokens.length);
    return fitting.flatMap((length) => this.ends.get(tokens.slice(tokens.length - length).join()) ?? []);
  }
}

/**
 * @param {Float32Array} logits
 * @param {readonly (readonly [number, number])[]} biases ids beyond the vocabulary have no effect
 */
export function addBias(logits, biases) {
  const biased = logits.slice();
  for (const [id, bias] of biases) if (id < logits.length) biased[id] += Math.fround(bias);
  return biased;
}

/**
 * Logits less `presence`, and `frequency` times its count, of each token that came. The definition is OpenAI's.
 * @param {Float32Array} logits @param {ReadonlyMap<number, number>} counts @param {number} presence
 * @param {number} frequency
 */
export function applyCountPenalties(logits, counts, presence, frequency) {
  const penalised = logits.slice();
  const { fround } = Math; // sums of float32, as in numpy
  for (const [id, count] of counts)
    penalised[id] -= fround(fround(presence) + fround(fround(frequency) * fround(count)));
  return penalised;
}

/** @param {Float32Array} logits @param {readonly number[]} ids beyond the vocabulary have no effect */
export function ruleOut(logits, ids) {
  const left = logits.slice();
  for (const id of ids) if (id < left.length) left[id] = -Infinity;
  return left;
}

/** 0 at the ids and -Infinity elsewhere. @param {Float32Array} logits @param {readonly number[]} ids */
export function only(logits, ids) {
  const left = new Float32Array(logits.length).fill(-Infinity);
  for (const id of ids) if (id < left.length) left[id] = 0;
  return left;
}

/** Tokens that would repeat an n-gram of `size` tokens. @param {readonly number[]} tokens @param {number} size */
export function ngramEnds(tokens, size) {
  const ends = [];
  const beginning = tokens.length - size + 1;
  for (let start = 0; start < tokens.length - size + 1; start++) {
    let repeats = true;
    for (let i = 0; i < size - 1 && repeats; i++) repeats = tokens[start + i] === tokens[beginning + i];
    if (repeats) ends.push(tokens[start + size - 1]);
  }
  return ends;
}
