/**
 * Graphs on onnxruntime-web's WebAssembly module itself, because its JavaScript API copies every tensor in and out.
 *
 * Here the state lies in the module's heap, bound as input and output at once. The functions used are those that the
 * package's own wrapper calls; they are no documented interface, so `checkModule` names any that a version lacks. Source: onnxruntime-web/lib/wasm/wasm-types.ts and wasm-core-impl.ts.
 */

import { DATA_FILE } from './description.js';
import { DogeError, PackageError, oneLine } from './errors.js';
import { HeapConstants } from './heap_constants.js';
import { Lifetime } from './lifetime.js';
import { withPromptAttention } from './prompt_attention.js';
import { nbytesOf, writeNumbers } from './sessions.js';
import { unpacked } from './unpacking.js';

/** @typedef {import('./sessions.js').Slot} Slot */
/** @typedef {import('./sessions.js').Shared} Shared */
/** @typedef {import('./sessions.js').Memory} Memory */
/** @typedef {import('./sessions.js').Backend} Backend */
/** @typedef {import('./sessions.js').Session} Session */
/** @typedef {import('./sessions.js').Binding} Binding */
/** @typedef {any} Module the Emscripten module */

/** @type {Record<import('./sessions.js').NumberType, number>} */
const TYPES = { float32: 1, int8: 3, int32: 6, int64: 7 }; // onnx.proto's
const CPU_DATA = 1; // dataLocationStringToEnum('cpu')
const FATAL = 4;
const ALL_OPTIMIZATIONS = 99;
const ERROR_TEXT = 4; // behind the error's code
const HEAP_BYTES = 2 ** 32;
const FULL_WITHIN = 2 ** 26; // bytes that a heap may lack to its most and still count as full
const NO_MEMORY = /bad_alloc|bad allocation|Failed to allocate memory|out of memory|\bOOM\b|Cannot enlarge memory/i;
const DATA_NAME = DATA_FILE.split('/')[1]; // as the graphs name it
const FUNCTIONS = [
  '_OrtInit',
  '_OrtGetLastError',
  '_OrtCreateSessionOptions',
  '_OrtAddSessionConfigEntry',
  '_OrtReleaseSessionOptions',
  '_OrtCreateSession',
  '_OrtReleaseSession',
  '_OrtCreateTensor',
  '_OrtReleaseTensor',
  '_OrtCreateBinding',
  '_OrtBindInput',
  '_OrtBindOutput',
  '_OrtReleaseBinding',
  '_OrtRunWithBinding',
  '_OrtCreateRunOptions',
  '_OrtReleaseRunOptions',
  '_malloc',
  '_free',
  'getValue',
  'setValue',
  'stringToUTF8',
  'lengthBytesUTF8',
  'UTF8ToString',
  'mountExternalData',
  'unmountExternalData',
];

/** @implements {Backend} */
export class HeapBackend {
  kernels = 'onnxruntime-web in WebAssembly';
  readsAllSlots = false; // it works in place
  drafts = true;
  longestChunk = Infinity;
  leastRank = 0;
  lifetime = new Lifetime();

  /**
   * @param {Module} module @param {import('./source.js').Source} source @param {number} threads
   */
  constructor(module, source, threads) {
    this.module = module;
    this.source = source;
    this.threads = threads;
    this.heap = new Heap(module);
    /** @type {Set<Block>} */
    this.blocks = new Set(); // of states and adapters; the model's end frees those that are left
    this.heap.check(module._OrtInit(threads, FATAL), 'start onnxruntime');
  }

  /**
   * @param {(options: object) => Promise<Module>} factory the default export of ort-wasm-simd-threaded.mjs
   * @param {URL} folder that has this file and the .wasm file
   * @param {import('./source.js').Source} source @param {number} threads
   */
  static async start(factory, folder, source, threads) {
    try {
      const module = await factory({
        numThreads: threads,
        locateFile: (/** @type {string} */ name) => new URL(name, folder).href,
      });
      checkModule(module);
      return new HeapBackend(module, source, threads);
    } catch (error) {
      if (error instanceof PackageError) throw error;
      throw new PackageError(`onnxruntime-web's WebAssembly does not start from ${folder.href} (${oneLine(error)})`);
    }
  }

  /** @param {string} file @param {Uint8Array} packed the graph */
  async open(file, packed) {
    const { module, heap } = this;
    const data = await this.source.bytes(DATA_FILE);
    const { graph: floats, files } = unpacked(packed, file, data);
    const graph = withPromptAttention(floats, file);
    const options = module._OrtCreateSessionOptions(ALL_OPTIMIZATIONS, true, true, 0, false, 0, 0, FATAL, 0, 0);
    let model = 0;
    try {
      module.mountExternalData(DATA_NAME, data);
      for (const [name, content] of files) module.mountExternalData(name, content);
      model = heap.malloc(graph.length);
      new Uint8Array(heap.buffer).set(graph, model);
      const session = await inHeap(module, `open ${file}`, () =>
        module._OrtCreateSession(model, graph.length, options),
      );
      if (!session) heap.fail(`open ${file}`);
      return new HeapSession(heap, session);
    } finally {
      if (model) module._free(model);
      module._OrtReleaseSessionOptions(options);
      module.unmountExternalData();
    }
  }

  /** @param {number} nbytes @returns {Memory} */
  allocate(nbytes) {
    return new HeapMemory(this, nbytes);
  }

  /** @param {import('./sessions.js').Arrays} arrays */
  constants(arrays) {
    return new HeapConstants(this, arrays);
  }

  async dispose() {
    for (const block of this.blocks) free(block);
  }
}

/** The memory of a state. @implements {Memory} */
class HeapMemory {
  /** @param {HeapBackend} backend @param {number} nbytes */
  constructor({ heap, blocks }, nbytes) {
    this.heap = heap;
    this.nbytes = nbytes;
    /** @type {Block} */
    this.block = { module: heap.module, blocks, at: heap.malloc(nbytes) };
    blocks.add(this.block);
    forgotten.register(this, this.block, this);
  }

  bytes() {
    return new Uint8Array(this.heap.buffer, this.block.at, this.nbytes);
  }

  changed() {}

  dispose() {
    forgotten.unregister(this);
    free(this.block);
  }
}

/** Memory in the heap, and the set of its backend in which it is until it is free. @typedef {{module: Module, blocks: Set<Block>, at: number}} Block */

/** @param {Block} block */
function free(block) {
  if (block.blocks.delete(block)) block.module._free(block.at);
}

/** Memory of states that nobody disposed of. */
const forgotten = new FinalizationRegistry(free);

/** The heap and onnxruntime's errors. */
class Heap {
  /** @param {Module} module */
  constructor(module) {
    this.module = module;
  }

  /** The heap as it is now; where another thread let it grow, the module notices as it is asked for a value. */
  get buffer() {
    this.module.getValue(8, 'i8');
    return this.module.HEAPU8.buffer;
  }

  /** @param {number} nbytes @returns {number} an address, aligned to 8 bytes */
  malloc(nbytes) {
    const at = nbytes < HEAP_BYTES ? this.module._malloc(Math.max(nbytes, 8)) : 0; // it takes 32 bits of a number
    if (!at) throw tooLarge(`${nbytes.toLocaleString('en')} bytes more`);
    return at >>> 0;
  }

  /** @param {string} text */
  string(text) {
    const size = this.module.lengthBytesUTF8(text) + 1;
    const at = this.malloc(size);
    this.module.stringToUTF8(text, at, size);
    return at;
  }

  /** @param {Slot} slot @param {number} at */
  tensor(slot, at) {
    const dims = this.malloc(4 * slot.dims.length);
    writeNumbers(this.buffer, dims, 'int32', slot.dims);
    const tensor = this.module._OrtCreateTensor(TYPES[slot.type], at, nbytesOf(slot), dims, slot.dims.length, CPU_DATA);
    this.module._free(dims);
    if (!tensor) this.fail(`make the tensor ${slot.name}`);
    return tensor;
  }

  /** @param {number} code of an onnxruntime call @param {string} purpose */
  check(code, purpose) {
    if (code) this.fail(purpose);
  }

  /** @param {string} purpose @returns {never} */
  fail(purpose) {
    const at = this.malloc(8);
    this.module._OrtGetLastError(at, at + ERROR_TEXT);
    const message = oneLine(this.module.UTF8ToString(this.module.getValue(at + ERROR_TEXT, '*')));
    this.module._free(at);
    if (NO_MEMORY.test(message)) throw tooLarge('its weights');
    throw new PackageError(`onnxruntime cannot ${purpose}; it may be damaged, export the model again (${message})`);
  }
}

/** @implements {Session} */
class HeapSession {
  /** @param {Heap} heap @param {number} handle */
  constructor(heap, handle) {
    this.heap = heap;
    this.handle = handle;
    this.runOptions = heap.module._OrtCreateRunOptions(FATAL, 0, false, 0);
    /** @type {Set<Held>} */
    this.bound = new Set(); // by bindings, which must not outlive the session
    if (!this.runOptions) heap.fail('make options of a run');
  }

  /**
   * @param {readonly Slot[]} inputs @param {readonly Slot[]} outputs @param {readonly Shared[]} shared
   * @param {Memory} memory @param {import('./sessions.js').Constants | null} constants
   */
  bind(inputs, outputs, shared, memory, constants) {
    const binding = new HeapBinding(this, inputs, outputs, shared, memory);
    for (const [name, tensor] of Object.entries(constants?.tensors ?? {})) binding.bindInput(name, tensor);
    return binding;
  }

  async dispose() {
    for (const held of this.bound) letGo(held);
    this.heap.module._OrtReleaseRunOptions(this.runOptions);
    this.heap.module._OrtReleaseSession(this.handle);
  }
}

/** @implements {Binding} */
class HeapBinding {
  /**
   * @param {HeapSession} session @param {readonly Slot[]} inputs @param {readonly Slot[]} outputs
   * @param {readonly Shared[]} shared @param {Memory} memory
   */
  constructor(session, inputs, outputs, shared, memory) {
    const { heap, handle } = session;
    this.session = session;
    /** @type {Map<string, {slot: Slot, at: number}>} */
    this.own = new Map();
    this.binding = heap.module._OrtCreateBinding(handle);
    /** @type {Held} */
    this.held = { module: heap.module, bound: session.bound, binding: this.binding, tensors: [], addresses: [] };
    session.bound.add(this.held);
    abandoned.register(this, this.held, this);
    this.outputCount = shared.reduce((count, { between }) => count + 1 + between.length, outputs.length);
    this.results = this.malloc(4 * this.outputCount);
    const base = memory.bytes().byteOffset;
    for (const slot of inputs) this.bindInput(slot.name, this.newTensor(slot));
    for (const slot of outputs) this.bindOutput(slot.name, this.newTensor(slot));
    for (const { input, output, between, type, dims, offset } of shared) {
      const tensor = this.tensor({ name: input, type, dims }, base + offset);
      this.bindInput(input, tensor);
      for (const name of [...between, output]) this.bindOutput(name, tensor);
    }
  }

  /** @param {Slot} slot */
  newTensor(slot) {
    const at = this.malloc(nbytesOf(slot));
    this.own.set(slot.name, { slot, at });
    return this.tensor(slot, at);
  }

  /** @param {Slot} slot @param {number} at */
  tensor(slot, at) {
    const tensor = this.session.heap.tensor(slot, at);
    this.held.tensors.push(tensor);
    return tensor;
  }

  /** @param {number} nbytes */
  malloc(nbytes) {
    const at = this.session.heap.malloc(nbytes);
    this.held.addresses.push(at);
    return at;
  }

  /** @param {string} name @param {number} tensor */
  bindInput(name, tensor) {
    const { heap } = this.session;
    const text = heap.string(name);
    heap.check(heap.module._OrtBindInput(this.binding, text, tensor), `bind ${name}`);
    heap.module._free(text);
  }

  /** @param {string} name @param {number} tensor */
  bindOutput(name, tensor) {
    const { heap } = this.session;
    const text = heap.string(name);
    heap.check(heap.module._OrtBindOutput(this.binding, text, tensor, 0), `bind ${name}`);
    heap.module._free(text);
  }

  /** @param {string} name @param {ArrayLike<number>} values */
  write(name, values) {
    const own = this.own.get(name);
    if (own) writeNumbers(this.session.heap.buffer, own.at, own.slot.type, values);
  }

  async run() {
    const { heap, handle, runOptions } = this.session;
    const { module } = heap;
    const code = await inHeap(module, 'run the decoder', () =>
      module._OrtRunWithBinding(handle, this.binding, this.outputCount, this.results, runOptions),
    );
    heap.check(code, 'run the decoder');
    // each run names its outputs by handles of their own
    for (const output of new Uint32Array(heap.buffer, this.results, this.outputCount)) module._OrtReleaseTensor(output);
  }

  /** @param {string} name */
  read(name) {
    const own = this.own.get(name);
    if (!own) return new Float32Array(0);
    return new Float32Array(this.session.heap.buffer, own.at, nbytesOf(own.slot) / 4);
  }

  dispose() {
    abandoned.unregister(this);
    letGo(this.held);
    this.own.clear();
  }
}

/**
 * What a binding has in the heap, and the set of its session in which it is until it is let go.
 * @typedef {{module: Module, bound: Set<Held>, binding: number, tensors: number[], addresses: number[]}} Held
 */

/** @param {Held} held */
function letGo(held) {
  const { module, bound, binding, tensors, addresses } = held;
  if (!bound.delete(held)) return;
  module._OrtReleaseBinding(binding);
  for (const tensor of tensors.splice(0)) module._OrtReleaseTensor(tensor);
  for (const at of addresses.splice(0)) module._free(at);
}

/** Bindings of states that nobody disposed of. */
const abandoned = new FinalizationRegistry(letGo);

/** Refuse a version of onnxruntime-web that lacks a function. @param {Module} module */
export function checkModule(module) {
  const missing = FUNCTIONS.filter((name) => typeof module[name] !== 'function');
  if (missing.length) {
    throw new PackageError(
      `this onnxruntime-web has no ${missing.join(', ')} in its WebAssembly module; install a version that this package ` +
        'names in its peerDependencies',
    );
  }
}

/**
 * An onnxruntime call. Whatever it throws ends in one sentence; a number is an exception of C++, which has no text here.
 * @template T @param {Module} module @param {string} purpose @param {() => T | Promise<T>} call
 */
export async function inHeap(module, purpose, call) {
  try {
    return await call();
  } catch (error) {
    if (error instanceof DogeError) throw error;
    const isFull = typeof error === 'number' && module.HEAPU8.byteLength > HEAP_BYTES - FULL_WITHIN;
    if (isFull || NO_MEMORY.test(oneLine(error))) throw tooLarge(`more to ${purpose}`);
    throw new PackageError(
      `onnxruntime's WebAssembly cannot ${purpose} and must be started anew (${oneLine(error)}); load the model again`,
    );
  }
}

/** @param {string} need */
function tooLarge(need) {
  return new PackageError(
    `the model is too large for the heap of WebAssembly, which has 4 GB at most: it needs ${need}; export it with a ` +
      'smaller --keep-window, or take a smaller model',
  );
}
