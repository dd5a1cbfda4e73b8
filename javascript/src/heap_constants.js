/** The matrices of an adapter in the heap of WebAssembly: copied there once, and bound wherever a state is. */

/** @typedef {import('./sessions.js').Arrays} Arrays */
/** @typedef {import('./sessions.js').Constants} Constants */

const LINE = 64; // bytes of a cache line, at which each matrix begins

/** @implements {Constants} */
export class HeapConstants {
  /** @param {import('./heap_session.js').HeapBackend} backend @param {Arrays} arrays */
  constructor(backend, arrays) {
    const { heap } = backend;
    const nbytes = [...arrays.values()].reduce((sum, { values }) => sum + inLines(values.byteLength), LINE);
    this.heap = heap;
    this.memory = backend.allocate(nbytes);
    /** @type {Record<string, number>} handles of onnxruntime's */
    this.tensors = {};
    let at = inLines(this.memory.bytes().byteOffset);
    for (const [name, { dims, values }] of arrays) {
      new Float32Array(heap.buffer, at, values.length).set(values);
      this.tensors[name] = heap.tensor({ name, type: 'float32', dims }, at);
      at += inLines(values.byteLength);
    }
  }

  dispose() {
    const { isBroken, module } = this.heap;
    for (const tensor of Object.values(this.tensors)) if (!isBroken) module._OrtReleaseTensor(tensor);
    this.tensors = {};
    this.memory.dispose();
  }
}

/** Bytes up to the next line. @param {number} nbytes */
const inLines = (nbytes) => Math.ceil(nbytes / LINE) * LINE;
