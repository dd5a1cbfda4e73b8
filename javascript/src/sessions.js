/**
 * The shape of a backend: it opens graphs, gives memory for states, and binds both together.
 *
 * A binding has memory of its own for small inputs and outputs. After a run the state's memory has the new rows too, and
 * no step hands a state to JavaScript. `native_session.js`, `heap_session.js` and `gpu_session.js` are the
 * backends.
 */

/** @typedef {'int64' | 'int32' | 'float32' | 'int8'} NumberType */
/** @typedef {{name: string, type: NumberType, dims: readonly number[]}} Slot */

/**
 * Part of a state's memory that is both input and output. between: outputs that only the graph itself goes on with; they
 * may lie in the same memory.
 * @typedef {{input: string, output: string, between: readonly string[], type: NumberType, dims: readonly number[], offset: number}} Shared
 */

/**
 * @typedef {object} Memory
 * @property {number} nbytes
 * @property {() => Uint8Array} bytes a view, to be asked for again after every run
 * @property {(offset: number, nbytes: number) => void} changed to be called where bytes were written since the first
 * binding
 * @property {() => void} dispose
 */

/**
 * @typedef {object} Binding
 * @property {(name: string, values: ArrayLike<number>) => void} write into an input
 * @property {() => Promise<void>} run
 * @property {(name: string) => Float32Array} read a view of an output, valid until the next run
 * @property {() => void} dispose
 */

/** Inputs that stay as they are, by their names. @typedef {Map<string, {dims: readonly number[], values: Float32Array}>} Arrays */

/**
 * The same where a backend reads them. They are made once, and every binding has them.
 * @typedef {object} Constants
 * @property {Readonly<Record<string, any>>} tensors
 * @property {() => void} dispose
 */

/**
 * @typedef {object} Session
 * @property {(inputs: readonly Slot[], outputs: readonly Slot[], shared: readonly Shared[], memory: Memory, constants: Constants | null) => Binding} bind
 * @property {() => Promise<void>} dispose
 */

/**
 * @typedef {object} Backend
 * @property {string} kernels who computes, in a word or two
 * @property {number} threads
 * @property {boolean} readsAllSlots whether a step takes time for slots of a state that hold no key
 * @property {boolean} drafts whether it runs the draft graph
 * @property {number} longestChunk tokens that it takes at once
 * @property {number} leastRank of an adapter's matrices: 0 where it takes some without numbers
 * @property {(file: string, graph: Uint8Array) => Promise<Session>} open file: the name for messages
 * @property {(nbytes: number) => Memory} allocate
 * @property {(arrays: Arrays) => Constants} constants
 * @property {import('./lifetime.js').Lifetime} lifetime of the one model that it computes
 * @property {() => Promise<void>} dispose
 */

/** @type {Record<NumberType, number>} */
export const BYTES = { int64: 8, int32: 4, float32: 4, int8: 1 };

/** @param {ReadonlyMap<string, Uint8Array>} graphs @param {string} file */
export function graphOf(graphs, file) {
  return graphs.get(file) ?? new Uint8Array(); // each was checked before a backend was made
}

/** Sessions of graphs, each opened when it is first asked for. */
export class Sessions {
  /**
   * @param {Backend} backend @param {ReadonlyMap<string, Uint8Array>} graphs by name
   * @param {Readonly<Record<string, string>>} [standIns] names of the graphs that stand for others
   */
  constructor(backend, graphs, standIns = {}) {
    this.backend = backend;
    this.graphs = graphs;
    this.standIns = standIns;
    /** @type {Map<string, Promise<Session>>} */
    this.opened = new Map();
  }

  /** @param {string} name */
  async get(name) {
    const file = this.standIns[name] ?? name;
    const opening = this.opened.get(file) ?? this.backend.open(file, graphOf(this.graphs, file));
    this.opened.set(file, opening);
    try {
      return await opening;
    } catch (error) {
      this.opened.delete(file); // it may be there another time
      throw error;
    }
  }

  async dispose() {
    const opened = [...this.opened.values()];
    this.opened.clear();
    for (const opening of opened) await (await opening).dispose();
  }
}

/** @param {{type: NumberType, dims: readonly number[]}} slot */
export function nbytesOf({ type, dims }) {
  return dims.reduce((a, b) => a * b, BYTES[type]);
}

/**
 * Write numbers of a type into memory.
 * @param {ArrayBufferLike} buffer @param {number} offset @param {NumberType} type @param {ArrayLike<number>} values
 */
export function writeNumbers(buffer, offset, type, values) {
  if (type === 'int64') {
    const view = new BigInt64Array(buffer, offset, values.length);
    for (let i = 0; i < values.length; i++) view[i] = BigInt(values[i]);
  } else {
    /** @type {any} */
    const View = type === 'int32' ? Int32Array : type === 'float32' ? Float32Array : Int8Array;
    new View(buffer, offset, values.length).set(values);
  }
}
