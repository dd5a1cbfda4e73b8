/**
 * The heaps of onnxruntime-web's WebAssembly modules, and onnxruntime's errors in them. One model at a time has a heap.
 *
 * WebAssembly gives no memory back, so the next model takes the heap that an earlier one has left. The functions used
 * are those that the package's own wrapper calls; they are no documented interface, so `checkModule` names any that a
 * version lacks. Source: onnxruntime-web/lib/wasm/wasm-types.ts and wasm-core-impl.ts.
 */

import { DogeError, PackageError, oneLine } from './errors.js';
import { nbytesOf, writeNumbers } from './sessions.js';

/** @typedef {import('./sessions.js').Slot} Slot */
/** @typedef {any} Module the Emscripten module */

/** @type {Record<import('./sessions.js').NumberType, number>} */
const TYPES = { float32: 1, int8: 3, int32: 6, int64: 7 }; // onnx.proto's
const CPU_DATA = 1; // dataLocationStringToEnum('cpu')
export const FATAL = 4;
const ERROR_TEXT = 4; // behind the error's code
const HEAP_BYTES = 2 ** 32;
const FULL_WITHIN = 2 ** 26; // bytes that a heap may lack to its most and still count as full
const NO_MEMORY = /bad_alloc|bad allocation|Failed to allocate memory|out of memory|\bOOM\b|Cannot enlarge memory/i;
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

/** Those without a model, by their threads and files. @type {Map<string, Heap[]>} */
const left = new Map();

/**
 * A heap without a model: one that was left, else a new one.
 * @param {(options: object) => Promise<Module>} factory the default export of ort-wasm-simd-threaded.mjs
 * @param {URL} folder that has this file and the .wasm file
 * @param {number} threads
 */
export async function takeHeap(factory, folder, threads) {
  const key = `${threads} ${folder.href}`;
  return left.get(key)?.pop() ?? startHeap(factory, folder, threads, key);
}

/** Let the next model have a heap, unless it is broken. @param {Heap} heap that nothing lies in any more */
export function leaveHeap(heap) {
  if (heap.isBroken) return;
  left.set(heap.key, [...(left.get(heap.key) ?? []), heap]);
}

/**
 * @param {(options: object) => Promise<Module>} factory @param {URL} folder @param {number} threads @param {string} key
 */
async function startHeap(factory, folder, threads, key) {
  try {
    const module = await factory({
      numThreads: threads,
      locateFile: (/** @type {string} */ name) => new URL(name, folder).href,
    });
    checkModule(module);
    const heap = new Heap(module, key);
    heap.check(module._OrtInit(threads, FATAL), 'start onnxruntime');
    return heap;
  } catch (error) {
    if (error instanceof PackageError) throw error;
    throw new PackageError(`onnxruntime-web's WebAssembly does not start from ${folder.href} (${oneLine(error)})`);
  }
}

/** The heap and onnxruntime's errors. */
export class Heap {
  /** @param {Module} module @param {string} key of its threads and files */
  constructor(module, key) {
    this.module = module;
    this.key = key;
    this.isBroken = false; // by an exception in its code, behind which nothing in it can be relied on
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

  /**
   * An onnxruntime call. Whatever it throws ends in one sentence; a number is an exception of C++, which has no text here.
   * @template T @param {string} purpose @param {() => T | Promise<T>} call
   */
  async call(purpose, call) {
    try {
      return await call();
    } catch (error) {
      this.isBroken = true;
      if (error instanceof DogeError) throw error;
      const isFull = typeof error === 'number' && this.module.HEAPU8.byteLength > HEAP_BYTES - FULL_WITHIN;
      if (isFull || NO_MEMORY.test(oneLine(error))) throw tooLarge(`more to ${purpose}`);
      throw new PackageError(
        `onnxruntime's WebAssembly cannot ${purpose} and must be started anew (${oneLine(error)}); load the model again`,
      );
    }
  }
}

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

/** @param {string} need */
function tooLarge(need) {
  return new PackageError(
    `the model is too large for the heap of WebAssembly, which has 4 GB at most: it needs ${need}; export it with a ` +
      'smaller --keep-window, or take a smaller model',
  );
}
