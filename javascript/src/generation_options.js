/** How to generate: one checked set of options, and the defaults that an exported folder brings along. */

import { DRAFT_TOKENS } from './description.js';
import { OptionError, PackageError, shown } from './errors.js';

const SMALLEST_TEMPERATURE = 1e-6; // below, the scaled logits may overflow; sampling is then greedy in all but name
const LARGEST_BIAS = 1e6; // above, sums with a bias lose the float32 logits that it is added to

/**
 * The wishes for one generation; docs/generation.md explains each by its name in Python.
 * @typedef {object} GenerationOptions
 * @property {number} maxNewTokens
 * @property {number} temperature 0 is greedy
 * @property {number} topP
 * @property {number} topK
 * @property {number} minP
 * @property {number} repetitionPenalty
 * @property {readonly string[]} stop
 * @property {boolean} ignoreEos
 * @property {bigint | null} seed null takes fresh entropy
 * @property {number} promptLookupNumTokens
 * @property {number} minNewTokens
 * @property {number} noRepeatNgramSize
 * @property {readonly number[]} suppressTokens
 * @property {readonly number[]} beginSuppressTokens
 * @property {readonly (readonly number[])[]} badWordsIds
 * @property {readonly (readonly [readonly number[], number])[]} sequenceBias
 * @property {readonly number[]} forcedEosTokenId
 * @property {readonly (readonly [number, number])[]} logitBias
 * @property {number} presencePenalty
 * @property {number} frequencyPenalty
 * @property {number | null} logprobs null returns none
 */

/**
 * The options as a caller may give them; one left out, undefined or null takes the folder's default.
 * @typedef {object} GenerationOverrides
 * @property {number | null} [maxNewTokens]
 * @property {number | null} [temperature]
 * @property {number | null} [topP]
 * @property {number | null} [topK]
 * @property {number | null} [minP]
 * @property {number | null} [repetitionPenalty]
 * @property {string | readonly string[] | null} [stop]
 * @property {boolean | null} [ignoreEos]
 * @property {number | bigint | null} [seed]
 * @property {number | null} [promptLookupNumTokens]
 * @property {number | null} [minNewTokens]
 * @property {number | null} [noRepeatNgramSize]
 * @property {readonly number[] | null} [suppressTokens]
 * @property {readonly number[] | null} [beginSuppressTokens]
 * @property {readonly (readonly number[])[] | null} [badWordsIds]
 * @property {readonly (readonly [readonly number[], number])[] | null} [sequenceBias]
 * @property {number | readonly number[] | null} [forcedEosTokenId]
 * @property {Readonly<Record<number, number>> | ReadonlyMap<number, number> | readonly (readonly [number, number])[] | null} [logitBias]
 * @property {number | null} [presencePenalty]
 * @property {number | null} [frequencyPenalty]
 * @property {number | null} [logprobs]
 */

/** @type {Readonly<GenerationOptions>} */
export const DEFAULTS = Object.freeze({
  maxNewTokens: 100,
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  stop: [],
  ignoreEos: false,
  seed: null,
  promptLookupNumTokens: 0,
  minNewTokens: 0,
  noRepeatNgramSize: 0,
  suppressTokens: [],
  beginSuppressTokens: [],
  badWordsIds: [],
  sequenceBias: [],
  forcedEosTokenId: [],
  logitBias: [],
  presencePenalty: 0,
  frequencyPenalty: 0,
  logprobs: null,
});

/** @typedef {(name: string, value: any) => any} Check */

/** @param {(n: number) => boolean} allows @param {string} allowed @returns {Check} */
function numberRule(allows, allowed) {
  return (name, value) => {
    if (typeof value !== 'number' || !allows(value))
      throw new OptionError(`${name} is ${shown(value)}; it must be ${allowed}`);
    return value;
  };
}

/** @param {number} least @param {string} [more] @returns {Check} */
const whole = (least, more = '') =>
  numberRule((n) => Number.isSafeInteger(n) && n >= least, `a whole number of at least ${least}${more}`);

/** @type {Check} */
function seed(name, value) {
  if (value === null) return null;
  const isWhole = typeof value === 'bigint' || Number.isSafeInteger(value);
  if (!isWhole || value < 0) {
    throw new OptionError(
      `${name} is ${shown(value)}; it must be a whole number of at least 0, or null for fresh entropy`,
    );
  }
  return BigInt(value);
}

/** @type {Check} */
function strings(name, value) {
  const texts = typeof value === 'string' ? [value] : value;
  if (!Array.isArray(texts) || !texts.every((text) => typeof text === 'string' && text)) {
    throw new OptionError(`${name} is ${shown(value)}; it must be a string or a list of strings, none of them empty`);
  }
  return texts;
}

/** @type {Check} */
function flag(name, value) {
  if (typeof value !== 'boolean') throw new OptionError(`${name} is ${shown(value)}; it must be true or false`);
  return value;
}

/** @param {unknown} value */
const isTokenId = (value) => Number.isSafeInteger(value) && Number(value) >= 0 && Number(value) < 2 ** 31;

/** @type {Check} */
function tokenIds(name, value) {
  if (!Array.isArray(value) || !value.every(isTokenId)) {
    throw new OptionError(`${name} is ${shown(value)}; it must be a list of token ids`);
  }
  return value;
}

/** @type {Check} */
const oneOrMoreIds = (name, value) => tokenIds(name, Array.isArray(value) ? value : [value]);

/** @type {Check} */
function sequences(name, value) {
  if (!Array.isArray(value) || !value.every((ids) => Array.isArray(ids) && ids.length)) {
    throw new OptionError(`${name} is ${shown(value)}; it must be a list of lists of token ids, none of them empty`);
  }
  return value.map((ids) => tokenIds(name, ids));
}

const biasRule = numberRule(
  (bias) => bias === -Infinity || Math.abs(bias) <= LARGEST_BIAS,
  `made of numbers up to ${LARGEST_BIAS}, or -Infinity`,
);

/** @type {Check} */
function biases(name, value) {
  if (!Array.isArray(value) || !value.every((pair) => Array.isArray(pair) && pair.length === 2)) {
    throw new OptionError(`${name} is ${shown(value)}; it must be a list of pairs, each of token ids and a number`);
  }
  const ids = sequences(
    name,
    value.map((pair) => pair[0]),
  );
  return value.map((pair, i) => [ids[i], biasRule(name, pair[1])]);
}

/** @type {Check} */
function tokenBiases(name, value) {
  const pairs = pairsOf(value);
  if (!pairs?.every((pair) => Array.isArray(pair) && pair.length === 2 && isTokenId(pair[0]))) {
    throw new OptionError(`${name} is ${shown(value)}; it must be an object of token ids and numbers`);
  }
  return pairs.map(([id, bias]) => [id, biasRule(name, bias)]);
}

/** The entries of an object, a map or a list. @param {any} value @returns {any[] | null} */
function pairsOf(value) {
  if (value instanceof Map) return [...value];
  if (Array.isArray(value)) return value;
  if (value === null || typeof value !== 'object') return null;
  return Object.entries(value).map(([id, bias]) => [/^\d+$/.test(id) ? Number(id) : id, bias]); // its names are texts
}

const penalty = numberRule((p) => p >= -2 && p <= 2, 'a number from -2 to 2 (0 switches it off)');

/** @type {Record<keyof GenerationOptions, Check>} */
const CHECKS = {
  maxNewTokens: whole(1),
  temperature: numberRule(
    (t) => t === 0 || (t >= SMALLEST_TEMPERATURE && t < Infinity),
    `0 (greedy) or a number of at least ${SMALLEST_TEMPERATURE}`,
  ),
  topP: numberRule((p) => p > 0 && p <= 1, 'a number above 0 and at most 1 (1 switches it off)'),
  topK: whole(0, ' (0 switches it off)'),
  minP: numberRule((p) => p >= 0 && p <= 1, 'a number from 0 to 1 (0 switches it off)'),
  repetitionPenalty: numberRule((r) => r >= 1e-3 && r <= 1e3, 'a number from 0.001 to 1000 (1 switches it off)'),
  stop: strings,
  ignoreEos: flag,
  seed,
  promptLookupNumTokens: numberRule(
    (n) => Number.isSafeInteger(n) && n >= 0 && n < DRAFT_TOKENS,
    `a whole number from 0 to ${DRAFT_TOKENS - 1} (0 switches it off)`,
  ),
  minNewTokens: whole(0),
  noRepeatNgramSize: whole(0, ' (0 switches it off)'),
  suppressTokens: tokenIds,
  beginSuppressTokens: tokenIds,
  badWordsIds: sequences,
  sequenceBias: biases,
  forcedEosTokenId: oneOrMoreIds,
  logitBias: tokenBiases,
  presencePenalty: penalty,
  frequencyPenalty: penalty,
  logprobs: whole(0, ', or null for none at all'),
};
const NAMES = /** @type {(keyof GenerationOptions)[]} */ (Object.keys(CHECKS));

/**
 * The options with every given override in place; OptionError for a name or value that is not allowed.
 * @param {Readonly<GenerationOptions>} options @param {object} overrides
 * @returns {Readonly<GenerationOptions>}
 */
export function withOverrides(options, overrides) {
  /** @type {Record<string, any>} */
  const merged = { ...options };
  for (const [name, value] of Object.entries(overrides)) {
    if (!Object.hasOwn(CHECKS, name))
      throw new OptionError(`there is no option ${shown(name)}; the options are ${NAMES.join(', ')}`);
    if (value != null) merged[name] = CHECKS[/** @type {keyof GenerationOptions} */ (name)](name, value);
  }
  return Object.freeze(/** @type {GenerationOptions} */ (merged));
}

// Fields of a generation_config.json that change transformers' answer and have no counterpart, with values that change
// nothing; and those that only sampling uses. As in Python's `runtime/generation_options.py`.
/** @type {Record<string, unknown[]>} */
const UNUSED_FIELDS = {
  max_length: [20],
  min_length: [0],
  num_beams: [1],
  num_beam_groups: [1],
  num_return_sequences: [1],
  penalty_alpha: [0],
  guidance_scale: [1],
  token_healing: [false],
  forced_bos_token_id: [],
  exponential_decay_length_penalty: [],
  watermarking_config: [],
  dola_layers: [],
  constraints: [],
  force_words_ids: [],
  max_time: [],
};
/** @type {Record<string, unknown[]>} */
const UNUSED_SAMPLING_FIELDS = { typical_p: [1], top_h: [], epsilon_cutoff: [0], eta_cutoff: [0] };
// read otherwise than by their name, or no field of that file
const OWN_RULE = ['temperature', 'stop', 'ignoreEos', 'seed', 'logitBias', 'presencePenalty', 'frequencyPenalty'];
OWN_RULE.push('logprobs', 'promptLookupNumTokens'); // the last changes no answer, and may be larger there

/**
 * A folder's settings for generation.
 * @typedef {object} GenerationDefaults
 * @property {Readonly<GenerationOptions>} options
 * @property {ReadonlySet<number>} eosTokenIds
 * @property {readonly string[]} stated names of the fields of generation_config.json that have a value
 * @property {readonly string[]} unused settings that change transformers' answer and are not offered here
 */

/**
 * The defaults of a folder by its generation_config.json, or by its config.json where that is absent.
 * @param {Record<string, any> | null} generationConfig @param {Record<string, any> | null} config
 * @returns {GenerationDefaults}
 */
export function generationDefaults(generationConfig, config) {
  if (generationConfig === null) {
    return { options: DEFAULTS, eosTokenIds: eosTokenIds(config ?? {}, 'config.json'), stated: [], unused: [] };
  }
  const given = generationConfig;
  return {
    options: asAllowed('generation_config.json', () => optionsFromGenerationConfig(given)),
    eosTokenIds: eosTokenIds(given, 'generation_config.json'),
    stated: Object.keys(given).filter((name) => given[name] !== null),
    unused: unusedSettings(given),
  };
}

/**
 * The options that a generation_config.json stands for, every field read as transformers reads it. Without `do_sample`
 * the answer is greedy; an absent top_k is 50, transformers' own default.
 * @param {Record<string, any>} config
 */
export function optionsFromGenerationConfig(config) {
  /** @type {GenerationOverrides} */
  const options = {
    topK: 50,
    stop: config.stop_strings,
    temperature: config.do_sample ? (config.temperature ?? 1) : 0,
  };
  const same = NAMES.filter((name) => !OWN_RULE.includes(name));
  const given = Object.fromEntries(same.map((name) => [name, config[snakeCase(name)]]));
  return withOverrides(DEFAULTS, {
    ...options,
    ...Object.fromEntries(Object.entries(given).filter(([, v]) => v != null)),
  });
}

/** @param {Record<string, any>} config */
function unusedSettings(config) {
  const fields = { ...UNUSED_FIELDS, ...(config.do_sample ? UNUSED_SAMPLING_FIELDS : {}) };
  const given = Object.keys(fields).filter((name) => config[name] != null && !fields[name].includes(config[name]));
  return given.filter((name) => name !== 'max_length' || config.max_new_tokens == null);
}

/** @param {Record<string, any>} config @param {string} file @returns {ReadonlySet<number>} */
function eosTokenIds(config, file) {
  const value = config.eos_token_id;
  return new Set(value == null ? [] : asAllowed(file, () => oneOrMoreIds('eos_token_id', value)));
}

/** @template T @param {string} file @param {() => T} read @returns {T} */
function asAllowed(file, read) {
  try {
    return read();
  } catch (error) {
    if (error instanceof OptionError)
      throw new PackageError(`${file} holds a value that is not allowed: ${error.message}`);
    throw error;
  }
}

/** @param {string} name */
export function snakeCase(name) {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
