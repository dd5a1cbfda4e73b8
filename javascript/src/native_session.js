/** Graphs on onnxruntime-node, which reads the past in JavaScript's own arrays and gives its new rows out. */

import { DATA_FILE } from './description.js';
import { PackageError, oneLine } from './errors.js';
import { FLOAT32, INT64, INT8, changed, node, readModel } from './onnx_graph.js';
import { BYTES, graphOf, nbytesOf, writeNumbers } from './sessions.js';

/** @typedef {import('./sessions.js').Slot} Slot */
/** @typedef {import('./sessions.js').Shared} Shared */
/** @typedef {import('./sessions.js').Memory} Memory */
/** @typedef {import('./sessions.js').Backend} Backend */
/** @typedef {import('./sessions.js').Session} Session */
/** @typedef {import('./sessions.js').Binding} Binding */
/** @typedef {typeof import('onnxruntime-common')} Ort */
/** @typedef {import('onnxruntime-common').Tensor} Tensor */

const NEW_SLOTS = 'new_slots'; // the name of an input, and the beginning of those of outputs
const NEW_ROWS = 'new_rows.';

/** @param {string} present */
const rowsOf = (present) => present.replace('present.', NEW_ROWS);

/** @implements {Backend} */
export class NativeBackend {
  kernels = 'onnxruntime-node';
  readsAllSlots = true; // see withNewRows

  /**
   * @param {Ort} ort @param {import('./source.js').FolderSource} source
   * @param {ReadonlyMap<string, Uint8Array>} graphs the checked ones by name
   * @param {number} threads @param {import('./description.js').DecoderDescription} description
   */
  constructor(ort, source, graphs, threads, description) {
    this.ort = ort;
    this.source = source;
    this.graphs = graphs;
    this.threads = threads;
    this.description = description;
  }

  /** @param {string} file */
  async open(file) {
    // an idle thread spins shortly, as in Python's `runtime/threads.py`; the weights are read where they lie
    const session = {
      'intra_op.spin_duration_us': '50',
      model_external_initializers_file_folder_path: this.source.pathOf('onnx'),
    };
    const options = {
      intraOpNumThreads: this.threads,
      logSeverityLevel: /** @type {const} */ (4),
      executionProviders: ['cpu'],
      extra: { session },
    };
    await this.source.data(); // its check: the folder may have been replaced since it was loaded
    const graph = withNewRows(graphOf(this.graphs, file), file, this.description);
    return new NativeSession(
      this.ort,
      await refusals(`open ${file}`, this.ort.InferenceSession.create(graph, options)),
    );
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
 * onnxruntime-node copies every output into a new array, and a state of 2,048 tokens takes several times as long as a
 * step. Without the presents, attention copies the past for itself, which is faster. The new rows are gathered from the
 * presents that it made.
 * @param {Uint8Array} bytes @param {string} file @param {import('./description.js').DecoderDescription} description
 */
function withNewRows(bytes, file, { numLayers, cacheType }) {
  const names = Array.from({ length: numLayers }, (_, layer) => [`${layer}.key`, `${layer}.value`]).flat();
  const type = cacheType === 'int8' ? INT8 : FLOAT32;
  return changed(readModel(bytes, file), {
    drops: (name) => name.startsWith('present.'),
    nodes: names.map((name) => node('Gather', [`present.${name}`, NEW_SLOTS], [`${NEW_ROWS}${name}`], '', { axis: 2 })),
    inputs: [[NEW_SLOTS, INT64]],
    outputs: names.map((name) => [`${NEW_ROWS}${name}`, type]),
  });
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
    /** @type {Record<string, Tensor>} */
    this.feeds = {};
    /** @type {Record<string, Tensor>} */
    this.results = {};
    this.shared = shared;
    this.memory = memory;
    this.tokens = inputs[0].dims[1]; // of input_ids
    const slots = { name: NEW_SLOTS, type: /** @type {const} */ ('int64'), dims: [this.tokens] };
    for (const slot of [...inputs, slots]) this.feeds[slot.name] = this.newTensor(slot);
    this.fetches = [...outputs.map(({ name }) => name), ...shared.map(({ output }) => rowsOf(output))];
    const bytes = memory.bytes();
    for (const { input, type, dims, offset } of shared) {
      this.feeds[input] = this.tensor({ name: input, type, dims }, bytes.buffer, bytes.byteOffset + offset);
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
    const ends = new Int32Array(/** @type {{buffer: ArrayBuffer}} */ (this.own.get('seqlens_k')).buffer);
    const first = ends[ends.length - 1] + 1 - this.tokens; // the slots behind the past
    this.write(
      NEW_SLOTS,
      Array.from({ length: this.tokens }, (_, i) => first + i),
    );
    this.results = await refusals('run the decoder', this.session.session.run(this.feeds, this.fetches));
    for (const shared of this.shared) this.keepRows(this.results[rowsOf(shared.output)], shared, first);
  }

  /**
   * Copy new rows, [1, heads, S, channels], into their slots.
   * @param {Tensor} rows
   * @param {Shared} shared
   * @param {number} first
   */
  keepRows(rows, { type, dims, offset }, first) {
    const [, heads, slots, channels] = dims;
    const rowBytes = channels * BYTES[type];
    const width = this.tokens * rowBytes;
    const { buffer, byteOffset } = /** @type {Float32Array} */ (rows.data);
    const bytes = this.memory.bytes();
    for (let head = 0; head < heads; head++) {
      bytes.set(new Uint8Array(buffer, byteOffset + head * width, width), offset + (head * slots + first) * rowBytes);
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
    throw new PackageError(
      `a state of ${nbytes.toLocaleString('en')} bytes does not fit into memory (${oneLine(error)})`,
    );
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
