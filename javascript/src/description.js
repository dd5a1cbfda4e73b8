/** A decoder file's description of itself, JSON in its metadata: dimensions, and how its state is fed. */

import { PackageError, oneLine } from './errors.js';

export const DECODER_FILE = 'onnx/decoder.onnx'; // these are within an exported folder
export const RECURRENT_FILE = 'onnx/decoder_recurrent.onnx';
export const DRAFT_FILE = 'onnx/decoder_draft.onnx';
export const DATA_FILE = 'onnx/model.onnx_data';
export const DRAFT_TOKENS = 8; // that the draft graph takes at once: the token to feed and up to seven guesses
export const METADATA_KEY = 'doge_export.decoder';
export const SAMPLE_KEY = 'doge_export.data';
/** @type {Record<string, number>} */
const FORMAT_VERSIONS = { float32: 6, int8: 7 };
/** @type {Record<string, number>} */
const RULE_FORMATS = { keep_sinks: 10, keep_bonus: 20, keep_recent: 40 }; // added to these where a field is not 0
const FIELDS = [
  'format_version',
  'vocab_size',
  'keep_window_size',
  'num_layers',
  'num_kv_heads',
  'num_recurrent_heads',
  'channels',
  'head_dim',
  'mask_channels',
  'weights_sha256',
  'cache_type',
  ...Object.keys(RULE_FORMATS), // a file does not mention those that are 0
];

/**
 * The dimensions a driver needs; docs/decoder.md explains how to use them.
 * @typedef {object} DecoderDescription
 * @property {number} vocabSize
 * @property {number} keepWindowSize
 * @property {number} numLayers
 * @property {number} numKvHeads
 * @property {number} numRecurrentHeads
 * @property {number} channels
 * @property {number} headDim
 * @property {number} maskChannels
 * @property {string} weightsSha256
 * @property {'float32' | 'int8'} cacheType
 * @property {number} keepSinks
 * @property {string} adapter the name of the one that computes with it, whose numbers weightsSha256 knows too; '' for none
 * @property {number} keepBonus the most tokens by which a key counts as younger; 0 where precedence alone decides
 * @property {number} keepRecent the last tokens up to a query whose keys are safe
 * @property {boolean} separatePrecedence whether the precedence of keys is no part of the cache
 */

/**
 * @param {ReadonlyMap<string, string>} metadata @param {string} file
 * @returns {DecoderDescription}
 */
export function readDescription(metadata, file) {
  const entry = metadata.get(METADATA_KEY);
  if (entry === undefined) {
    throw new PackageError(`${file} has no ${METADATA_KEY} in its metadata; give a decoder that doge-export wrote`);
  }
  /** @type {Record<string, any>} */
  let values;
  try {
    values = { cache_type: 'float32', keep_sinks: 0, keep_bonus: 0, keep_recent: 0, ...JSON.parse(entry) };
  } catch (error) {
    throw new PackageError(`${file} has damaged metadata (${oneLine(error)}); export the checkpoint again`);
  }
  checkVersion(values, file);
  return {
    vocabSize: values.vocab_size,
    keepWindowSize: values.keep_window_size,
    numLayers: values.num_layers,
    numKvHeads: values.num_kv_heads,
    numRecurrentHeads: values.num_recurrent_heads,
    channels: values.channels,
    headDim: values.head_dim,
    maskChannels: values.mask_channels,
    weightsSha256: values.weights_sha256,
    cacheType: values.cache_type,
    keepSinks: values.keep_sinks,
    adapter: '',
    keepBonus: values.keep_bonus,
    keepRecent: values.keep_recent,
    separatePrecedence: values.cache_type === 'int8' && values.mask_channels > 0,
  };
}

/** @param {Record<string, any>} values @param {string} file */
function checkVersion(values, file) {
  const rule = Object.keys(RULE_FORMATS).filter((name) => values[name] !== 0);
  const added = rule.reduce((sum, name) => sum + RULE_FORMATS[name], 0);
  const written = values.format_version;
  const newest = Math.max(...Object.values(FORMAT_VERSIONS)) + added;
  if (Number.isInteger(written) && written > newest) {
    throw new PackageError(
      `${file} has decoder format ${written}, which is newer than this version of doge-export; update it, or export ` +
        'the checkpoint again',
    );
  }
  const names = Object.keys(values);
  const known = names.length === FIELDS.length && FIELDS.every((name) => names.includes(name));
  const isRule = rule.every((name) => Number.isInteger(values[name]) && values[name] > 0);
  if (!known || !isRule || written !== FORMAT_VERSIONS[values.cache_type] + added) {
    throw new PackageError(
      `${file} has decoder format ${written} with other fields than this version's formats ` +
        `${Object.values(FORMAT_VERSIONS).join(' and ')}; export the checkpoint again`,
    );
  }
}
