/** From generated tokens to text: pieces while they come, and the result with its numbers at the end. */

import { Detokenizer } from './detokenizer.js';
import { StateError } from './errors.js';
import { StopStrings } from './stopping.js';

/** @typedef {import('./generation.js').GeneratedToken} GeneratedToken */
/** @typedef {import('./logprobs.js').TokenLogprobs} TokenLogprobs */

/**
 * One finished generation; times are the model's alone, not those of whoever reads the pieces.
 * @typedef {object} GenerationResult
 * @property {string} text the new text, without special tokens, and without a stop string and all behind it
 * @property {number[]} tokenIds every new token, a final end-of-sequence token included
 * @property {'stop' | 'length'} finishReason
 * @property {number} promptTokens
 * @property {number} completionTokens
 * @property {number} prefillTokensPerS prompt tokens by the time until the first new token
 * @property {number} draftedTokens guesses of prompt lookup that were checked
 * @property {number} acceptedTokens those of them that were right
 * @property {TokenLogprobs[] | null} logprobs of every new token; null where they were not asked for
 * @property {number} decodeTokensPerS the new tokens after the first by the time they took; 0 when there were none
 */

/**
 * Pieces of the text of one generation; the model runs only while a piece is asked for.
 * @implements {AsyncIterable<string>}
 */
export class TextStream {
  /**
   * @param {AsyncGenerator<GeneratedToken, void, void>} tokens
   * @param {import('./tokenizer.js').Tokenizer | null} tokenizer null leaves the text empty
   * @param {readonly string[]} stop @param {number} promptTokens
   * @param {() => void} [onEnd] called once, when the last piece was read or the stream was closed
   * @param {import('./prompt_lookup.js').PromptLookup | null} [lookup] that knows how many guesses were right
   */
  constructor(tokens, tokenizer, stop, promptTokens, onEnd, lookup = null) {
    this.tokens = tokens;
    this.detokenizer = tokenizer === null ? null : new Detokenizer(tokenizer);
    this.stopStrings = new StopStrings(stop);
    this.promptTokens = promptTokens;
    this.onEnd = onEnd;
    this.lookup = lookup;
    /** Set it to false before the first token, and an answer takes constant memory: text, tokenIds and logprobs stay empty. */
    this.collects = true;
    this.text = '';
    /** @type {number[]} */
    this.tokenIds = [];
    /** @type {TokenLogprobs[] | null} */
    this.logprobs = null; // of the tokens so far, where they were asked for
    this.count = 0;
    /** @type {'stop' | 'length' | null} */
    this.finishReason = null;
    this.prefillMs = 0;
    this.decodeMs = 0;
    this.reading = false;
  }

  /** @returns {AsyncGenerator<string, void, void>} */
  async *[Symbol.asyncIterator]() {
    try {
      for (let piece = await this.next(); piece !== null; piece = await this.next()) yield piece;
    } finally {
      await this.close();
    }
  }

  /** The next piece, never empty; null behind the last one. StateError while another reader waits for one. */
  async next() {
    if (this.reading) throw new StateError('the stream is being read already; give each reader a stream of its own');
    this.reading = true;
    try {
      while (this.finishReason === null) {
        const start = performance.now();
        const { value: token } = await this.tokens.next();
        if (!token) return null; // the stream was closed
        const piece = this.push(token, performance.now() - start);
        if (this.finishReason !== null) await this.close();
        if (piece) return piece;
      }
      return null;
    } catch (error) {
      await this.close();
      throw error;
    } finally {
      this.reading = false;
    }
  }

  /** End the answer here. Text and tokenIds stay; there is no result unless the last piece was read. */
  async close() {
    await this.tokens.return();
    const { onEnd } = this;
    this.onEnd = undefined;
    onEnd?.();
  }

  /** Run to the end. */
  async readAll() {
    while ((await this.next()) !== null);
    return this.result;
  }

  /** Text and numbers of the generation; an Error while pieces are still to come. @returns {GenerationResult} */
  get result() {
    if (this.finishReason === null) throw new Error('the text stream has no result before its last piece was read');
    return {
      text: this.text,
      tokenIds: this.tokenIds,
      finishReason: this.finishReason,
      promptTokens: this.promptTokens,
      completionTokens: this.count,
      prefillTokensPerS: rate(this.promptTokens, this.prefillMs),
      decodeTokensPerS: this.decodeTokensPerS,
      draftedTokens: this.lookup?.draftedTokens ?? 0,
      acceptedTokens: this.lookup?.acceptedTokens ?? 0,
      logprobs: this.logprobs,
    };
  }

  /** Of the tokens so far. */
  get decodeTokensPerS() {
    return rate(this.count - 1, this.decodeMs);
  }

  /** Take a token; the text that became certain with it. @param {GeneratedToken} token @param {number} ms */
  push(token, ms) {
    if (this.count) this.decodeMs += ms;
    else this.prefillMs = ms;
    this.count++;
    const piece = this.take(token);
    if (this.collects) {
      this.tokenIds.push(token.tokenId);
      this.text += piece;
      if (token.logprobs) (this.logprobs ??= []).push(token.logprobs);
    }
    return piece;
  }

  /** @param {GeneratedToken} token */
  take({ tokenId, finishReason }) {
    this.finishReason = finishReason;
    if (this.detokenizer === null) return '';
    let certain = this.detokenizer.push(tokenId);
    const isLast = finishReason !== null;
    if (isLast || this.stopStrings.completedBy(certain + this.detokenizer.unsettled))
      certain += this.detokenizer.finish();
    const piece = this.stopStrings.push(certain);
    if (this.stopStrings.found) this.finishReason = 'stop';
    else if (isLast) return piece + this.stopStrings.finish();
    return piece;
  }
}

/** @param {number} tokens @param {number} ms */
function rate(tokens, ms) {
  return tokens > 0 && ms > 0 ? (1000 * tokens) / ms : 0;
}
