/** Graphs on onnxruntime-node, which reads the past in JavaScript's own arrays and gives its new rows out. */

import { Lifetime } from './lifetime.js';
import { FLOAT32, INT64, INT8, changed, node, readModel } from './onnx_graph.js';
import { NEW_SLOTS, TensorBinding, bytesOf, newBytes, refusals } from './tensor_binding.js';

/** @typedef {import('./sessions.js').Slot} Slot */
/** @typedef {import('./sessions.js').Shared} Shared */
/** @typedef {import('./sessions.js').Memory} Memory */
/** @typedef {import('./sessions.js').Backend} Backend */
/** @typedef {import('./sessions.js').Session} Session */
/** @typedef {import('./sessions.js').Binding} Binding */
/** @typedef {typeof import('onnxruntime-common')} Ort */

const NEW_ROWS = 'new_rows.'; // the beginning of names of outputs

/** @param {string} present */
const rowsOf = (present) => present.replace('present.', NEW_ROWS);

/** @implements {Backend} */
export class NativeBackend {
  kernels = 'onnxruntime-node';
  readsAllSlots = true; // see withNewRows
  drafts = true;
  longestChunk = Infinity;
  leastRank = 0;
  lifetime = new Lifetime();

  /**
   * @param {Ort} ort @param {import('./source.js').FolderSource} source
   * @param {number} threads @param {import('./description.js').DecoderDescription} description
   */
  constructor(ort, source, threads, description) {
    this.ort = ort;
    this.source = source;
    this.threads = threads;
    this.description = description;
  }

  /** @param {string} file @param {Uint8Array} graph */
  async open(file, graph) {
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
    const changed = withNewRows(graph, file, this.description);
    return new NativeSession(
      this.ort,
      await refusals(`open ${file}`, this.ort.InferenceSession.create(changed, options)),
    );
  }

  /** @param {number} nbytes @returns {Memory} */
  allocate(nbytes) {
    const bytes = newBytes(nbytes);
    return { nbytes, bytes: () => bytes, changed() {}, dispose() {} };
  }

  /** @param {import('./sessions.js').Arrays} arrays */
  constants(arrays) {
    const tensors = [...arrays].map(([name, { dims, values }]) => [name, new this.ort.Tensor('float32', values, dims)]);
    return { tensors: Object.fromEntries(tensors), dispose() {} };
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
   * @param {Memory} memory @param {import('./sessions.js').Constants | null} constants
   */
  bind(inputs, outputs, shared, memory, constants) {
    const binding = new NativeBinding(this.ort, this.session, inputs, outputs, shared, memory);
    Object.assign(binding.feeds, constants?.tensors);
    return binding;
  }

  async dispose() {
    await this.session.release();
  }
}

/** @implements {Binding} */
class NativeBinding extends TensorBinding {
  /**
   * @param {Ort} ort @param {import('onnxruntime-common').InferenceSession} session
   * @param {readonly Slot[]} inputs @param {readonly Slot[]} outputs
   * @param {readonly Shared[]} shared @param {Memory} memory
   */
  constructor(ort, session, inputs, outputs, shared, memory) {
    super(ort, session, inputs, outputs, shared, memory);
    const bytes = memory.bytes();
    for (const { input, output, type, dims, offset } of shared) {
      this.feeds[input] = this.tensor({ type, dims }, bytes.buffer, bytes.byteOffset + offset);
      this.fetches[rowsOf(output)] = null;
    }
  }

  /** @param {Shared} shared */
  newRows({ output }) {
    return bytesOf(this.results[rowsOf(output)]);
  }
}
