/** Options that all calls have in common: an object, a signal, and functions to be told of progress. */

import { OptionError, shown } from './errors.js';

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
