/** Options that all calls have in common: an object, a signal, and functions to be told of progress. */

import { OptionError, shown } from './errors.js';

/** @typedef {import('./generation_options.js').GenerationOverrides} GenerationOverrides */

/**
 * Of `generate` and `stream`. A state is one stream of tokens, and the call advances it in place. adapter: the name of the
 * one to compute with; by default the state's, or that of `withAdapter`. onPrompt is told how many tokens of a long prompt
 * are fed, and of how many.
 * @typedef {GenerationOverrides & {state?: import('./state.js').State, adapter?: string, signal?: AbortSignal, onPrompt?: (fed: number, of: number) => void}} CallOptions
 */

/** adapter: one name, or one for each prompt; null is the base. @typedef {Omit<CallOptions, 'adapter'> & {adapter?: string | readonly (string | null)[]}} ListOptions */

/** @typedef {CallOptions & {chatTemplate?: string}} ChatOptions chatTemplate: a name among the folder's, or Jinja */

/** OptionError where options are no object, or those that end and watch a call are of another kind. @param {unknown} options */
export function checkCall(options) {
  if (options === null || typeof options !== 'object' || Array.isArray(options))
    throw new OptionError(`the options are ${shown(options)}; they must be an object, or be left out`);
  const { signal = null, onPrompt = null, onProgress = null } = /** @type {Record<string, unknown>} */ (options);
  if (signal !== null && !(signal instanceof AbortSignal))
    throw new OptionError(`signal is ${shown(signal)}; it must be the signal of an AbortController`);
  for (const [name, value] of Object.entries({ onPrompt, onProgress })) {
    if (value !== null && typeof value !== 'function')
      throw new OptionError(`${name} is ${shown(value)}; it must be a function`);
  }
}
