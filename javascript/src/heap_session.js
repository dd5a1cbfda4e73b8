/**
 * Graphs on onnxruntime-web's WebAssembly module itself, because its JavaScript API copies every tensor in and out.
 *
 * Here the state lies in the module's heap, bound as input and output at once.
 */

import { DATA_FILE } from './description.js';
import { FATAL, leaveHeap, takeHeap } from './heap.js';
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
/** @typedef {import('./heap.js').Heap} Heap */

const ALL_OPTIMIZATIONS = 99;
const DATA_NAME = DATA_FILE.split('/')[1]; // as the graphs name it

/** @implements {Backend} */
export class HeapBackend {
  kernels = 'onnxruntime-web in WebAssembly';
  readsAllSlots = false; // it works in place
  drafts = true;
  longestChunk = Infinity;
  leastRank = 0;
  lifetime = new Lifetime();

  /** @param {Heap} heap @param {import('./source.js').Source} source @param {number} threads */
  constructor(heap, source, threads) {
    this.heap = heap;
    this.source = source;
    this.threads = threads;
    /** @type {Set<Block>} */
    this.blocks = new Set(); // of states and adapters; the model's end frees those that are left
  }

  /**
   * @param {(options: object) => Promise<any>} factory @param {URL} folder both as `takeHeap` has them
   * @param {import('./source.js').Source} source @param {number} threads
   */
  static async start(factory, folder, source, threads) {
    return new HeapBackend(await takeHeap(factory, folder, threads), source, threads);
  }

  /** @param {string} file @param {Uint8Array} packed the graph */
  async open(file, packed) {
    const { heap } = this;
    const { module } = heap;
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
      const session = await heap.call(`open ${file}`, () => module._OrtCreateSession(model, graph.length, options));
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
    leaveHeap(this.heap);
  }
}

/** The memory of a state. @implements {Memory} */
class HeapMemory {
  /** @param {HeapBackend} backend @param {number} nbytes */
  constructor({ heap, blocks }, nbytes) {
    this.heap = heap;
    this.nbytes = nbytes;
    /** @type {Block} */
    this.block = { heap, blocks, at: heap.malloc(nbytes) };
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

/** Memory in the heap, and the set of its backend in which it is until it is free. @typedef {{heap: Heap, blocks: Set<Block>, at: number}} Block */

/** @param {Block} block */
function free(block) {
  const { heap, blocks, at } = block;
  if (blocks.delete(block) && !heap.isBroken) heap.module._free(at);
}

/** Memory of states that nobody disposed of. */
const forgotten = new FinalizationRegistry(free);

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
    const { heap, bound } = this;
    for (const held of bound) letGo(held);
    if (heap.isBroken) return;
    heap.module._OrtReleaseRunOptions(this.runOptions);
    heap.module._OrtReleaseSession(this.handle);
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
    this.held = { heap, bound: session.bound, binding: this.binding, tensors: [], addresses: [] };
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
    const code = await heap.call('run the decoder', () =>
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
 * @typedef {{heap: Heap, bound: Set<Held>, binding: number, tensors: number[], addresses: number[]}} Held
 */

/** @param {Held} held */
function letGo(held) {
  const { heap, bound, binding, tensors, addresses } = held;
  if (!bound.delete(held) || heap.isBroken) return;
  const { module } = heap;
  module._OrtReleaseBinding(binding);
  for (const tensor of tensors.splice(0)) module._OrtReleaseTensor(tensor);
  for (const at of addresses.splice(0)) module._free(at);
}

/** Bindings of states that nobody disposed of. */
const abandoned = new FinalizationRegistry(letGo);
