/** Graphs on onnxruntime-node, which computes on the memory of JavaScript's own arrays. */

import { DATA_FILE } from './description.js';
import { PackageError, oneLine } from './errors.js';
import { nbytesOf, writeNumbers } from './sessions.js';

/** @typedef {import('./sessions.js').Slot} Slot */
/** @typedef {import('./sessions.js').Shared} Shared */
/** @typedef {import('./sessions.js').Memory} Memory */
/** @typedef {import('./sessions.js').Backend} Backend */
/** @typedef {import('./sessions.js').Session} Session */
/** @typedef {import('./sessions.js').Binding} Binding */
/** @typedef {typeof import('onnxruntime-common')} Ort */

/** @implements {Backend} */
export class NativeBackend {
  kernels = 'onnxruntime-node';

  /**
   * @param {Ort} ort @param {import('./source.js').FolderSource} source @param {number} threads
   */
  constructor(ort, source, threads) {
    this.ort = ort;
    this.source = source;
    this.threads = threads;
  }

  /** @param {string} file */
  async open(file) {
    const options = { intraOpNumThreads: this.threads, logSeverityLevel: /** @type {const} */ (4), executionProviders: ['cpu'] };
    const session = await refusals(`open ${file}`, this.ort.InferenceSession.create(this.source.pathOf(file), options));
    return new NativeSession(this.ort, session);
  }

  /** @param {number} nbytes @returns {Memory} */
  allocate(nbytes) {
    return newMemory(nbytes);
  }

  async dispose() {}
}

/** @implements {Session} */
class NativeSession {
  /** @param {Ort} ort @param {import('onnxruntime-common').InferenceSession} session */
  constructor(ort, session) {
    this.ort = ort;
    this.session = session;
  }

  /**
   * @param {readonly Slot[]} inputs @param {readonly Slot[]} outputs @param {readonly Shared[]} shared
   * @param {Memory} memory
   */
  bind(inputs, outputs, shared, memory) {
    return new NativeBinding(this, inputs, outputs, shared, memory);
  }

  async dispose() {
    await this.session.release();
  }
}

/** @implements {Binding} */
class NativeBinding {
  /**
   * @param {NativeSession} session @param {readonly Slot[]} inputs @param {readonly Slot[]} outputs
   * @param {readonly Shared[]} shared @param {Memory} memory
   */
  constructor(session, inputs, outputs, shared, memory) {
    this.session = session;
    /** @type {Map<string, {slot: Slot, buffer: ArrayBuffer}>} */
    this.own = new Map();
    /** @type {Record<string, import('onnxruntime-common').Tensor>} */
    this.feeds = {};
    /** @type {Record<string, import('onnxruntime-common').Tensor>} */
    this.fetches = {};
    for (const slot of inputs) this.feeds[slot.name] = this.newTensor(slot);
    for (const slot of outputs) this.fetches[slot.name] = this.newTensor(slot);
    const bytes = memory.bytes();
    for (const { input, output, type, dims, offset } of shared) {
      this.feeds[input] = this.tensor({ name: input, type, dims }, bytes.buffer, bytes.byteOffset + offset);
      this.fetches[output] = this.feeds[input];
    }
  }

  /** @param {Slot} slot */
  newTensor(slot) {
    const buffer = new ArrayBuffer(nbytesOf(slot));
    this.own.set(slot.name, { slot, buffer });
    return this.tensor(slot, buffer, 0);
  }

  /** @param {Slot} slot @param {ArrayBufferLike} buffer @param {number} offset */
  tensor({ type, dims }, buffer, offset) {
    const count = dims.reduce((a, b) => a * b, 1);
    /** @type {any} */
    const View = { int64: BigInt64Array, int32: Int32Array, float32: Float32Array, int8: Int8Array }[type];
    return new this.session.ort.Tensor(type, new View(buffer, offset, count), dims);
  }

  /** @param {string} name @param {ArrayLike<number>} values */
  write(name, values) {
    const own = this.own.get(name);
    if (own) writeNumbers(own.buffer, 0, own.slot.type, values);
  }

  async run() {
    await refusals('run the decoder', this.session.session.run(this.feeds, this.fetches));
  }

  /** @param {string} name */
  read(name) {
    return new Float32Array(this.own.get(name)?.buffer ?? new ArrayBuffer(0));
  }

  dispose() {}
}

/** @param {number} nbytes @returns {Memory} */
function newMemory(nbytes) {
  try {
    const bytes = new Uint8Array(nbytes); // the system hands it out as it is written to
    return { nbytes, bytes: () => bytes, dispose() {} };
  } catch (error) {
    throw new PackageError(`a state of ${nbytes.toLocaleString('en')} bytes does not fit into memory (${oneLine(error)})`);
  }
}

/** @template T @param {string} purpose @param {Promise<T>} promise */
async function refusals(purpose, promise) {
  try {
    return await promise;
  } catch (error) {
    throw new PackageError(
      `onnxruntime cannot ${purpose}; ${DATA_FILE} or the graph may be damaged, export the model again (${oneLine(error)})`,
    );
  }
}
