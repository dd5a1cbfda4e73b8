/** Safetensors: a header in JSON, then the bytes of tensors one after the other. */

import { joined } from './protobuf.js';

/** @typedef {{dtype: string, shape: readonly number[], bytes: Uint8Array}} Tensor */

const LENGTH_BYTES = 8;
/** @type {Record<string, number>} */
const SIZES = { F32: 4, I64: 8, I8: 1, U8: 1 };

/** @param {Readonly<Record<string, Tensor>>} tensors @param {Record<string, string>} metadata */
export function writeSafetensors(tensors, metadata) {
  // the widest numbers first, so that each lies at a multiple of its size
  const names = Object.keys(tensors).sort(
    (a, b) => SIZES[tensors[b].dtype] - SIZES[tensors[a].dtype] || (a < b ? -1 : 1),
  );
  /** @type {Record<string, object>} */
  const header = { __metadata__: metadata };
  let at = 0;
  for (const name of names) {
    const { dtype, shape, bytes } = tensors[name];
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
  }
  let text = new TextEncoder().encode(JSON.stringify(header));
  const padding = (8 - (text.length % 8)) % 8;
  text = joined([text, new Uint8Array(padding).fill(0x20)]);
  const length = new Uint8Array(new BigUint64Array([BigInt(text.length)]).buffer);
  return joined([length, text, ...names.map((name) => tensors[name].bytes)]);
}

/** @param {Uint8Array} bytes RangeError or SyntaxError where they are no such file */
export function readSafetensors(bytes) {
  if (bytes.length < LENGTH_BYTES) throw new RangeError('the file ends early');
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const start = LENGTH_BYTES + length;
  if (start > bytes.length) throw new RangeError('the file ends early');
  const { __metadata__: metadata, ...entries } = JSON.parse(
    new TextDecoder().decode(bytes.subarray(LENGTH_BYTES, start)),
  );
  /** @type {Record<string, Tensor>} */
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(entries)) {
    const [from, to] = offsets;
    const size = shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, SIZES[dtype]);
    if (!(from >= 0 && to - from === size && start + to <= bytes.length))
      throw new RangeError(`the tensor ${name} lies outside`);
    tensors[name] = { dtype, shape, bytes: bytes.slice(start + from, start + to) };
  }
  return { tensors, metadata: /** @type {Record<string, string>} */ (metadata ?? {}) };
}
