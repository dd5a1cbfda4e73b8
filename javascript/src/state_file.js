/** State files: one stream of tokens as safetensors that names its model, as Python's `runtime/state_file.py`. */

import { sha256 } from '@noble/hashes/sha2.js';

import { StateError, oneLine, shown } from './errors.js';
import { hexadecimal } from './folder_files.js';
import { readSafetensors, writeSafetensors } from './safetensors.js';
import { halfToFloat } from './unpacking.js';

/** @typedef {import('./description.js').DecoderDescription} DecoderDescription */
/** @typedef {import('./safetensors.js').Tensor} Tensor */

const FORMAT_VERSION = 1;
const HEADER_KEY = 'doge_export.state';
const CHECKSUM_KEY = 'doge_export.sha256';
export const POSITION_LIMIT = 2 ** 32; // keys have 32 bits for their position
const HEADER_FIELDS = [
  'adapter',
  'format_version',
  'keep_bonus',
  'keep_recent',
  'keep_sinks',
  'keep_window_size',
  'metadata',
  'position',
  'unfed_token',
  'weights_sha256',
];

/**
 * The content of a state file. `cache` has the bytes of [layers, 2, heads, slots in use, channels].
 * @typedef {object} StateContent
 * @property {number} position
 * @property {number | null} unfedToken
 * @property {Record<string, string>} metadata
 * @property {number} heads
 * @property {Uint8Array} cache
 * @property {Float32Array | null} precedence
 * @property {Uint32Array | null} keyPositions each below POSITION_LIMIT
 * @property {readonly number[]} seenTokens
 * @property {readonly number[]} firstPositions
 */

/** @param {DecoderDescription} d @param {StateContent} content */
export function writeStateFile(d, content) {
  const { position, metadata, heads } = content;
  for (const [name, value] of Object.entries(metadata)) {
    if (typeof value !== 'string')
      throw new StateError(`the state's metadata has ${shown(value)} for ${shown(name)}; it must be a string`);
  }
  const used = Math.min(position, d.keepWindowSize);
  const header = JSON.stringify({
    format_version: FORMAT_VERSION,
    weights_sha256: d.weightsSha256,
    keep_window_size: d.keepWindowSize,
    position,
    unfed_token: content.unfedToken,
    metadata,
    ...(d.keepSinks ? { keep_sinks: d.keepSinks } : {}),
    ...(d.adapter ? { adapter: d.adapter } : {}),
    ...(d.keepBonus ? { keep_bonus: d.keepBonus } : {}),
    ...(d.keepRecent ? { keep_recent: d.keepRecent } : {}),
  });
  /** @type {Record<string, Tensor>} */
  const tensors = {
    cache: {
      dtype: d.cacheType === 'int8' ? 'I8' : 'F32',
      shape: [d.numLayers, 2, heads, used, d.channels],
      bytes: content.cache,
    },
    seen_tokens: int64(content.seenTokens, [content.seenTokens.length]),
    first_positions: int64(content.firstPositions, [content.firstPositions.length]),
  };
  if (content.precedence) {
    const bytes = new Uint8Array(
      content.precedence.buffer,
      content.precedence.byteOffset,
      content.precedence.byteLength,
    );
    tensors.precedence = { dtype: 'F32', shape: [d.numLayers, d.numRecurrentHeads, used], bytes };
  }
  if (content.keyPositions) {
    tensors.key_positions = int64(content.keyPositions, [d.numLayers, d.numRecurrentHeads, d.keepWindowSize]);
  }
  return writeSafetensors(tensors, { [HEADER_KEY]: header, [CHECKSUM_KEY]: checksum(header, tensors) });
}

/**
 * Read and check a file; StateError where it is damaged, no state file, of another version or of another model.
 * @param {Uint8Array} bytes @param {DecoderDescription} d
 * @returns {StateContent}
 */
export function readStateFile(bytes, d) {
  if (!(bytes instanceof Uint8Array))
    throw new StateError('loadState takes the bytes of a state file as a Uint8Array; give what state.save() returned');
  const { tensors, metadata } = asStateFile(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)); // no Buffer
  const header = parsedHeader(metadata[HEADER_KEY], d);
  const packed = isPacked(tensors, d);
  checkLayout(tensors, header.position, d, packed);
  if (checksum(metadata[HEADER_KEY], tensors) !== metadata[CHECKSUM_KEY]) {
    throw damaged('its content does not have the checksum that was saved with it');
  }
  const content = {
    position: header.position,
    unfedToken: header.unfed_token,
    metadata: header.metadata,
    heads: tensors.cache.shape[2],
    cache: packed ? unpackFloat16(tensors.cache.bytes, d) : tensors.cache.bytes,
    precedence: tensors.precedence ? new Float32Array(tensors.precedence.bytes.buffer) : null,
    keyPositions: tensors.key_positions ? numbersOf(tensors.key_positions) : null,
    seenTokens: numbersOf(tensors.seen_tokens),
    firstPositions: numbersOf(tensors.first_positions),
  };
  checkValues(content, d); // of the numbers as they stand in the file, before any is cut to 32 bits
  return { ...content, keyPositions: content.keyPositions && Uint32Array.from(content.keyPositions) };
}

/**
 * SHA-256 of the header text and the tensors in the order of their names.
 * @param {string} header
 * @param {Record<string, Tensor>} tensors
 */
function checksum(header, tensors) {
  const encoder = new TextEncoder();
  const digest = sha256.create().update(encoder.encode(header));
  for (const name of Object.keys(tensors).sort()) {
    const { shape, bytes } = tensors[name];
    const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`; // as Python writes it
    digest.update(encoder.encode(`\n${name} ${tuple}\n`)).update(bytes);
  }
  return hexadecimal(digest.digest());
}

/** @param {Uint8Array} bytes */
function asStateFile(bytes) {
  let file;
  try {
    file = readSafetensors(bytes);
  } catch (error) {
    throw new StateError(`the bytes are no state file or a damaged one: ${oneLine(error)}`);
  }
  for (const key of [HEADER_KEY, CHECKSUM_KEY]) {
    if (typeof file.metadata[key] !== 'string')
      throw new StateError(`the bytes are no state file: the header has no entry ${key}`);
  }
  return file;
}

/** @param {string} text @param {DecoderDescription} d @returns {Record<string, any>} */
function parsedHeader(text, d) {
  let header;
  try {
    header = JSON.parse(text);
  } catch (error) {
    throw damaged(`its header is not valid JSON (${oneLine(error)})`);
  }
  if (header?.format_version !== FORMAT_VERSION) {
    throw new StateError(
      `the state file has format ${shown(header?.format_version)}, but this version reads ${FORMAT_VERSION} only`,
    );
  }
  header = { keep_sinks: 0, keep_bonus: 0, keep_recent: 0, adapter: '', ...header };
  if (Object.keys(header).sort().join() !== HEADER_FIELDS.join())
    throw damaged(`its header has the fields ${Object.keys(header)}`);
  if (header.adapter !== d.adapter) {
    const [made, ours] = [header.adapter, d.adapter].map((name) =>
      name ? `with the adapter ${shown(name)}` : 'without an adapter',
    );
    throw new StateError(`the file holds a state made ${made}, but is to be read ${ours}; load it as it was made`);
  }
  const belongs = [
    [header.weights_sha256, d.weightsSha256, 'has the weights'],
    [header.keep_window_size, d.keepWindowSize, 'has a window of'],
    [header.keep_sinks, d.keepSinks, 'keeps sinks:'],
    [header.keep_bonus, d.keepBonus, 'has keep_bonus'],
    [header.keep_recent, d.keepRecent, 'has keep_recent'],
  ];
  for (const [theirs, ours, what] of belongs) {
    if (theirs === ours) continue;
    throw new StateError(
      `the state is of another model: its own ${what} ${String(theirs).slice(0, 12)}, this one ${String(ours).slice(0, 12)}; ` +
        'load it with the model that made it',
    );
  }
  const { position, unfed_token: unfed, metadata } = header;
  if (!Number.isInteger(position) || position < 0 || position >= POSITION_LIMIT)
    throw damaged(`its position is ${shown(position)}`);
  const isToken = Number.isInteger(unfed) && unfed >= 0 && unfed < d.vocabSize;
  if (unfed !== null && !isToken) throw damaged(`its unfed_token is ${shown(unfed)}`);
  const isText =
    metadata && typeof metadata === 'object' && Object.values(metadata).every((value) => typeof value === 'string');
  if (!isText) throw damaged('its metadata is no dictionary of strings');
  return header;
}

/**
 * Whether the cache has the rows of bytes that DogeStep writes.
 * @param {Record<string, Tensor>} tensors
 * @param {DecoderDescription} d
 */
function isPacked(tensors, d) {
  const { dtype, shape = [] } = tensors.cache ?? {};
  if (dtype !== 'U8') {
    if (d.cacheType === 'int8' || dtype !== 'I8') return false;
    throw new StateError(
      'the state has a cache of int8 and this model one of float32; load it with the model that made it',
    );
  }
  if (d.cacheType === 'float32' && shape[4] === packedWidth(d)) return true;
  throw new StateError(
    'the state was saved by the operator DogeStep with a cache in 8 bits, which only that operator can go on with; save ' +
      'it in Python from a model loaded with operators=False',
  );
}

/**
 * @param {Record<string, Tensor>} tensors
 * @param {number} position
 * @param {DecoderDescription} d
 * @param {boolean} packed
 */
function checkLayout(tensors, position, d, packed) {
  const wide = 'key_positions' in tensors;
  if ((position > d.keepWindowSize && !wide) || (position < d.keepWindowSize && wide)) {
    throw damaged(`its tensors do not belong to position ${position}`);
  }
  const used = Math.min(position, d.keepWindowSize);
  const heads = wide ? d.numRecurrentHeads : d.numKvHeads;
  const seen = tensors.seen_tokens?.shape[0] ?? 0;
  /** @type {Record<string, [string, number[]]>} */
  const expected = {
    cache: packed
      ? ['U8', [d.numLayers, 2, heads, used, packedWidth(d)]]
      : [d.cacheType === 'int8' ? 'I8' : 'F32', [d.numLayers, 2, heads, used, d.channels]],
    first_positions: ['I64', [seen]],
    seen_tokens: ['I64', [seen]],
  };
  if (d.separatePrecedence) expected.precedence = ['F32', [d.numLayers, d.numRecurrentHeads, used]];
  if (wide) expected.key_positions = ['I64', [d.numLayers, d.numRecurrentHeads, d.keepWindowSize]];
  const found = Object.fromEntries(Object.entries(tensors).map(([name, { dtype, shape }]) => [name, [dtype, shape]]));
  if (inOrder(found) !== inOrder(expected))
    throw damaged(`it holds ${inOrder(found)} where this model has ${inOrder(expected)}`);
}

/**
 * Numbers that no stream can have led to.
 * @param {Omit<StateContent, 'keyPositions'> & {keyPositions: readonly number[] | null}} content
 * @param {DecoderDescription} d
 */
function checkValues(content, d) {
  const floats =
    d.cacheType === 'int8'
      ? new Float32Array(0)
      : new Float32Array(content.cache.buffer, content.cache.byteOffset, content.cache.byteLength / 4);
  const isNumber = (/** @type {number} */ value) => !Number.isNaN(value);
  if (!floats.every(isNumber) || !(content.precedence ?? floats.subarray(0, 0)).every(isNumber)) {
    throw damaged('its cache holds numbers that are none');
  }
  const { seenTokens, firstPositions, keyPositions, position } = content;
  if (!allDifferentBelow(d.vocabSize, seenTokens) || !allDifferentBelow(position, firstPositions)) {
    throw damaged('its seen tokens or their positions are impossible');
  }
  for (let start = 0; keyPositions && start < keyPositions.length; start += d.keepWindowSize) {
    const lane = keyPositions.slice(start, start + d.keepWindowSize);
    const inPlace = lane.slice(0, d.keepSinks).every((value, slot) => value === slot);
    const areLast = lane.filter((value) => value >= position - d.keepRecent).length === d.keepRecent;
    if (!inPlace || !areLast || !allDifferentBelow(position, lane))
      throw damaged('the positions of its keys are impossible');
  }
}

/** @param {number} limit @param {ArrayLike<number>} values */
function allDifferentBelow(limit, values) {
  const sorted = Float64Array.from(values).sort();
  return sorted.every(
    (value, i) => Number.isInteger(value) && value >= 0 && value < limit && (i === 0 || value > sorted[i - 1]),
  );
}

/** Bytes of a row as DogeStep keeps it: the mask's numbers in float32, then float16. @param {DecoderDescription} d */
function packedWidth(d) {
  return 4 * d.maskChannels + 2 * Math.ceil(d.headDim / 8) * 8;
}

/**
 * Rows of DogeStep in float32, which holds each of their numbers.
 * @param {Uint8Array} bytes
 * @param {DecoderDescription} d
 */
function unpackFloat16(bytes, d) {
  const width = packedWidth(d);
  const rows = bytes.length / width;
  const values = new Float32Array(rows * d.channels);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let row = 0; row < rows; row++) {
    const [from, to] = [row * width, row * d.channels];
    for (let i = 0; i < d.maskChannels; i++) values[to + d.headDim + i] = view.getFloat32(from + 4 * i, true);
    const numbers = from + 4 * d.maskChannels;
    for (let i = 0; i < d.headDim; i++) values[to + i] = halfToFloat(view.getUint16(numbers + 2 * i, true));
  }
  return new Uint8Array(values.buffer);
}

/** @param {ArrayLike<number>} values @param {readonly number[]} shape @returns {Tensor} */
function int64(values, shape) {
  const numbers = BigInt64Array.from({ length: values.length }, (_, i) => BigInt(values[i]));
  return { dtype: 'I64', shape, bytes: new Uint8Array(numbers.buffer) };
}

/** @param {Tensor} tensor of int64 */
function numbersOf({ bytes }) {
  return Array.from(new BigInt64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8), Number);
}

/** @param {object} value */
function inOrder(value) {
  return JSON.stringify(Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))));
}

/** @param {string} fault */
function damaged(fault) {
  return new StateError(`the state file is damaged: ${fault}`);
}
