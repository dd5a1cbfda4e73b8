/**
 * What bindings to onnxruntime's JavaScript API have in common: `native_session.js` and `gpu_session.js` add the past.
 *
 * Each run gives out the new keys and values beside the logits, and they are written into the state's memory.
 */

import { DATA_FILE } from './description.js';
import { PackageError, oneLine } from './errors.js';
import { BYTES, nbytesOf, writeNumbers } from './sessions.js';

/** @typedef {import('./sessions.js').Slot} Slot */
/** @typedef {import('./sessions.js').Shared} Shared */
/** @typedef {import('./sessions.js').Memory} Memory */
/** @typedef {typeof import('onnxruntime-common')} Ort */
/** @typedef {import('onnxruntime-common').Tensor} Tensor */

export const NEW_SLOTS = 'new_slots'; // the name of an input, which tells the slots of the new rows

export class TensorBinding {
  /**
   * @param {Ort} ort @param {import('onnxruntime-common').InferenceSession} session
   * @param {readonly Slot[]} inputs @param {readonly Slot[]} outputs
   * @param {readonly Shared[]} shared @param {Memory} memory
   */
  constructor(ort, session, inputs, outputs, shared, memory) {
    this.ort = ort;
    this.session = session;
    /** @type {Map<string, {slot: Slot, buffer: ArrayBuffer}>} */
    this.own = new Map();
    /** @type {Record<string, Tensor>} */
    this.feeds = {};
    /** @type {Record<string, Tensor | null>} */
    this.fetches = Object.fromEntries(outputs.map(({ name }) => [name, null]));
    /** @type {Record<string, Tensor>} */
    this.results = {};
    this.shared = shared;
    this.memory = memory;
    this.tokens = inputs[0].dims[1]; // of input_ids
    const slots = { name: NEW_SLOTS, type: /** @type {const} */ ('int64'), dims: [this.tokens] };
    for (const slot of [...inputs, slots]) this.feeds[slot.name] = this.newTensor(slot);
  }

  /** @param {Slot} slot */
  newTensor(slot) {
    const buffer = new ArrayBuffer(nbytesOf(slot));
    this.own.set(slot.name, { slot, buffer });
    return this.tensor(slot, buffer, 0);
  }

  /** @param {{type: import('./sessions.js').NumberType, dims: readonly number[]}} slot @param {ArrayBufferLike} buffer @param {number} offset */
  tensor({ type, dims }, buffer, offset) {
    const count = dims.reduce((a, b) => a * b, 1);
    /** @type {any} */
    const View = { int64: BigInt64Array, int32: Int32Array, float32: Float32Array, int8: Int8Array }[type];
    return new this.ort.Tensor(type, new View(buffer, offset, count), dims);
  }

  /** @param {string} name @param {ArrayLike<number>} values */
  write(name, values) {
    const own = this.own.get(name);
    if (own) writeNumbers(own.buffer, 0, own.slot.type, values);
  }

  async run() {
    const ends = new Int32Array(/** @type {{buffer: ArrayBuffer}} */ (this.own.get('seqlens_k')).buffer);
    const first = ends[ends.length - 1] + 1 - this.tokens; // the slots behind the past
    this.write(
      NEW_SLOTS,
      Array.from({ length: this.tokens }, (_, i) => first + i),
    );
    this.results = await refusals('run the decoder', this.session.run(this.feeds, this.fetches));
    for (const [index, shared] of this.shared.entries()) this.keepRows(this.newRows(shared, index), shared, first);
  }

  /**
   * The new rows of a past, [1, heads, S, channels].
   * @param {Shared} _shared @param {number} _index of it
   * @returns {Uint8Array}
   */
  newRows(_shared, _index) {
    throw new TypeError('a binding says where its new rows are');
  }

  /**
   * Copy new rows into their slots.
   * @param {Uint8Array} rows @param {Shared} shared @param {number} first
   */
  keepRows(rows, { type, dims, offset }, first) {
    const [, heads, slots, channels] = dims;
    const rowBytes = channels * BYTES[type];
    const width = this.tokens * rowBytes;
    const bytes = this.memory.bytes();
    for (let head = 0; head < heads; head++) {
      bytes.set(rows.subarray(head * width, (head + 1) * width), offset + (head * slots + first) * rowBytes);
    }
  }

  /** @param {string} name */
  read(name) {
    return /** @type {Float32Array} */ (this.results[name]?.data ?? new Float32Array(0));
  }

  dispose() {}
}

/** The bytes of a tensor. @param {Tensor} tensor */
export function bytesOf({ data }) {
  const { buffer, byteOffset, byteLength } = /** @type {Float32Array} */ (data);
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Zeros for a state; PackageError where they do not fit. @param {number} nbytes */
export function newBytes(nbytes) {
  try {
    return new Uint8Array(nbytes); // the system hands it out as it is written to
  } catch (error) {
    throw new PackageError(
      `a state of ${nbytes.toLocaleString('en')} bytes does not fit into memory (${oneLine(error)})`,
    );
  }
}

/** @template T @param {string} purpose @param {Promise<T>} promise */
export async function refusals(purpose, promise) {
  try {
    return await promise;
  } catch (error) {
    throw new PackageError(
      `onnxruntime cannot ${purpose}; ${DATA_FILE} or the graph may be damaged, export the model again (${oneLine(error)})`,
    );
  }
}
