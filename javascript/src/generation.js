/** The generation loop in its roles: run the model, filter its logits, choose a token, decide whether to stop. */

import { StateError } from './errors.js';
import { LogitsProcessors } from './logits_processors.js';
import { tokenLogprobs } from './logprobs.js';
import { Pcg64, freshSeed } from './random.js';
import { candidates, greedy, sample } from './sampling.js';
import { breathe } from './turns.js';

/** @typedef {import('./generation_options.js').GenerationOptions} GenerationOptions */
/** @typedef {import('./state.js').State} State */
/** @typedef {import('./logprobs.js').TokenLogprobs} TokenLogprobs */
/** @typedef {'stop' | 'length'} FinishReason */
/**
 * One new token; finishReason is set on the last one, logprobs where they are asked for.
 * @typedef {{tokenId: number, finishReason: FinishReason | null, logprobs?: TokenLogprobs}} GeneratedToken
 */

/**
 * pastIds: the tokens before the prompt, for options that look at them. begin: called before the first token is fed.
 * lookup: feeds the tokens in the decoder's place.
 * @typedef {object} GenerationCalls
 * @property {readonly number[]} [pastIds]
 * @property {() => Promise<void>} [begin]
 * @property {import('./prompt_lookup.js').PromptLookup | null} [lookup]
 * @property {AbortSignal} [signal]
 * @property {(fed: number, of: number) => void} [onPrompt]
 */

/**
 * Feed the prompt to `state`, then yield one chosen token after the other. A token is fed when the next one is asked
 * for, so the last one is not: `state.unfedToken` remembers it.
 * @param {import('./decoder.js').Decoder} decoder @param {State} state @param {readonly number[]} promptIds
 * @param {GenerationOptions} options @param {ReadonlySet<number>} stopIds tokens that end the answer
 * @param {GenerationCalls} [calls]
 * @returns {AsyncGenerator<GeneratedToken, void, void>}
 */
export async function* generateTokens(decoder, state, promptIds, options, stopIds, calls = {}) {
  const { pastIds = [], begin, lookup, signal, onPrompt } = calls;
  await begin?.();
  const selector = new TokenSelector(options, stopIds, [...pastIds, ...promptIds]);
  let fed = promptIds;
  while (true) {
    signal?.throwIfAborted();
    const progress = { signal, onPrompt };
    const token = await decoder.backend.lifetime.use(async () => {
      const logits = lookup
        ? await lookup.nextLogits(decoder, state, fed, progress)
        : (await decoder.forward(state, fed, progress))[0];
      return selector.nextToken(logits, state); // in here, as `dispose` frees the logits
    });
    const { position } = state;
    await breathe();
    yield token;
    if (token.finishReason !== null) return;
    if (state.position !== position) {
      throw new StateError(
        `the state moved from position ${position} to ${state.position} while its answer was being read; give each answer a ` +
          'copy() of its own',
      );
    }
    fed = [token.tokenId];
  }
}

/** The tokens of one answer: filters logits, chooses, and decides whether to stop. */
export class TokenSelector {
  /** @param {GenerationOptions} options @param {ReadonlySet<number>} stopIds @param {readonly number[]} pastIds */
  constructor(options, stopIds, pastIds) {
    this.options = options;
    this.stopIds = stopIds;
    this.processors = new LogitsProcessors(options, stopIds, pastIds);
    this.choose = tokenChooser(options);
    this.count = 0;
  }

  /**
   * The next token; the state remembers it as not fed yet.
   * @param {Float32Array} logits [vocab] @param {State} state
   * @returns {GeneratedToken}
   */
  nextToken(logits, state) {
    const tokenId = this.choose(this.processors.process(logits, state));
    const best = this.options.logprobs;
    const told = best === null ? {} : { logprobs: tokenLogprobs(logits, tokenId, best) };
    this.processors.append(tokenId);
    state.unfedToken = tokenId;
    this.count++;
    const ended = this.count === this.options.maxNewTokens ? 'length' : null;
    return { tokenId, finishReason: this.stopIds.has(tokenId) ? 'stop' : ended, ...told };
  }
}

/**
 * Greedy at temperature 0, else a sampler with its own random numbers; the same seed draws the same tokens.
 * @param {GenerationOptions} options @returns {(logits: Float32Array) => number}
 */
export function tokenChooser(options) {
  if (options.temperature === 0) return greedy;
  const generator = new Pcg64(options.seed ?? freshSeed());
  return (logits) => {
    const left = candidates(logits, options);
    return left.ids[sample(left.logits, () => generator.random())];
  };
}
