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
const SINKS_FORMAT = 10; // added to these where a driver must keep sinks
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
  'keep_sinks',
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
    values = { cache_type: 'float32', keep_sinks: 0, ...JSON.parse(entry) };
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
    separatePrecedence: values.cache_type === 'int8' && values.mask_channels > 0,
  };
}

/** @param {Record<string, any>} values @param {string} file */
function checkVersion(values, file) {
  if (values.keep_bonus) {
    throw new PackageError(
      `${file} has keys with bonuses (keep_bonus ${values.keep_bonus}), which JavaScript does not count; export the ` +
        'checkpoint without --calibrate-window',
    );
  }
  if (values.keep_recent) {
    throw new PackageError(
      `${file} has a window whose last ${values.keep_recent} tokens are safe (keep_recent), which JavaScript does not ` +
        'know; export the checkpoint with a keep_recent of 0',
    );
  }
  const sinks = values.keep_sinks ? SINKS_FORMAT : 0;
  const written = values.format_version;
  const newest = Math.max(...Object.values(FORMAT_VERSIONS)) + sinks;
  if (Number.isInteger(written) && written > newest) {
    throw new PackageError(
      `${file} has decoder format ${written}, which is newer than this version of doge-export; update it, or export ` +
        'the checkpoint again',
    );
  }
  const names = Object.keys(values);
  const known = names.length === FIELDS.length && FIELDS.every((name) => names.includes(name));
  if (!known || written !== FORMAT_VERSIONS[values.cache_type] + sinks) {
    throw new PackageError(
      `${file} has decoder format ${written} with other fields than this version's formats ` +
        `${Object.values(FORMAT_VERSIONS).join(' and ')}; export the checkpoint again`,
    );
  }
}
