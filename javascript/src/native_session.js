/** Graphs on onnxruntime-node, which reads the past in JavaScript's own arrays and gives its new rows out. */

import { DATA_FILE } from './description.js';
import { PackageError, oneLine } from './errors.js';
import { readModel, withOutputs } from './onnx_graph.js';
import { nbytesOf, writeNumbers } from './sessions.js';

/** @typedef {import('./sessions.js').Slot} Slot */
/** @typedef {import('./sessions.js').Shared} Shared */
/** @typedef {import('./sessions.js').Memory} Memory */
/** @typedef {import('./sessions.js').Backend} Backend */
/** @typedef {import('./sessions.js').Session} Session */
/** @typedef {import('./sessions.js').Binding} Binding */
/** @typedef {typeof import('onnxruntime-common')} Ort */
/** @typedef {import('onnxruntime-common').Tensor} Tensor */

/** @implements {Backend} */
export class NativeBackend {
  kernels = 'onnxruntime-node';
  readsAllSlots = true; // see newRows

  /**
   * @param {Ort} ort @param {import('./source.js').FolderSource} source @param {number} threads
   * @param {import('./description.js').DecoderDescription} description
   */
  constructor(ort, source, threads, description) {
    this.ort = ort;
    this.source = source;
    this.threads = threads;
    this.description = description;
  }

  /** @param {string} file */
  async open(file) {
    const path = this.source.pathOf(file);
    // an idle thread spins shortly, as in Python's `runtime/threads.py`; the weights are read where they lie
    const session = { 'intra_op.spin_duration_us': '50', model_external_initializers_file_folder_path: this.source.pathOf('onnx') };
    const options = {
      intraOpNumThreads: this.threads, logSeverityLevel: /** @type {const} */ (4), executionProviders: ['cpu'], extra: { session },
    };
    const { graph, rows } = this.description.cacheType === 'float32' ? newRows(await this.source.bytes(file), file) : { graph: path, rows: [] };
    const opened = this.ort.InferenceSession.create(/** @type {any} */ (graph), options);
    return new NativeSession(this.ort, await refusals(`open ${file}`, opened), rows);
  }

  /** @param {number} nbytes @returns {Memory} */
  allocate(nbytes) {
    return newMemory(nbytes);
  }

  async dispose() {}
}

/**
 * A graph that gives out its new keys and values, and not the whole state.
 *
 * onnxruntime-node copies every output into a new array: for 2,048 slots of 20M parameters 6 ms a step, ten times the
 * step itself. Without the presents, attention copies the past for itself, which is several times faster.
 * The rows of an int8 state are made inside of attention, so such a graph stays as it is.
 * @param {Uint8Array} bytes @param {string} file
 */
function newRows(bytes, file) {
  const model = readModel(bytes, file);
  const rows = model.nodes.filter(({ opType }) => opType === 'GroupQueryAttention').flatMap(({ inputs, outputs }) => [
    { row: inputs[1], present: outputs[1] }, { row: inputs[2], present: outputs[2] },
  ]);
  const graph = withOutputs(model, (name) => name.startsWith('present.'), rows.map(({ row }) => row));
  return { graph, rows };
}

/** @implements {Session} */
class NativeSession {
  /**
   * @param {Ort} ort @param {import('onnxruntime-common').InferenceSession} session
   * @param {readonly {row: string, present: string}[]} rows the outputs with new rows in place of presents; none where
   * presents are outputs
   */
  constructor(ort, session, rows) {
    this.ort = ort;
    this.session = session;
    this.rows = rows;
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
    /** @type {Record<string, Tensor>} */
    this.feeds = {};
    /** @type {Record<string, Tensor | null>} */
    this.fetches = {};
    /** @type {Record<string, Tensor>} */
    this.results = {};
    this.shared = new Map(shared.map((each) => [each.output, each]));
    this.memory = memory;
    for (const slot of inputs) this.feeds[slot.name] = this.newTensor(slot);
    for (const { name } of outputs) this.fetches[name] = null;
    for (const { row } of session.rows) this.fetches[row] = null;
    const bytes = memory.bytes();
    for (const { input, output, type, dims, offset } of shared) {
      this.feeds[input] = this.tensor({ name: input, type, dims }, bytes.buffer, bytes.byteOffset + offset);
      if (!session.rows.length) this.fetches[output] = this.feeds[input];
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
    const running = this.session.session.run(this.feeds, /** @type {any} */ (this.fetches));
    this.results = /** @type {Record<string, Tensor>} */ (await refusals('run the decoder', running));
    for (const { row, present } of this.session.rows) this.keepRows(this.results[row], present);
  }

  /** Copy new rows, [1, S, heads * channels], into the slots where the past ends. @param {Tensor} rows @param {string} present */
  keepRows(rows, present) {
    const { dims, offset } = /** @type {Shared} */ (this.shared.get(present));
    const [, heads, slots, channels] = dims;
    const tokens = rows.dims[1];
    const last = new Int32Array(/** @type {{buffer: ArrayBuffer}} */ (this.own.get('seqlens_k')).buffer)[0];
    const bytes = this.memory.bytes();
    const floats = new Float32Array(bytes.buffer, bytes.byteOffset + offset, heads * slots * channels);
    const data = /** @type {Float32Array} */ (rows.data);
    for (let token = 0; token < tokens; token++) {
      for (let head = 0; head < heads; head++) {
        const from = (token * heads + head) * channels;
        floats.set(data.subarray(from, from + channels), (head * slots + last + 1 - tokens + token) * channels);
      }
    }
  }

  /** @param {string} name */
  read(name) {
    return /** @type {Float32Array} */ (this.results[name]?.data ?? new Float32Array(0));
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
