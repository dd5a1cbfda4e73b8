/**
 * Graphs on onnxruntime-web's WebGPU, whose attention writes the state in place, in buffers of the GPU.
 *
 * JavaScript has the same rows in memory of its own: each run reads its new rows back beside its logits. So a state is
 * copied, saved and evicted from as elsewhere, and only the slots that an eviction changes are written to the GPU again.
 */

import { DATA_FILE } from './description.js';
import { OptionError, PackageError, oneLine } from './errors.js';
import { NEW_ROWS, gpuGraph } from './gpu_graph.js';
import { Lifetime } from './lifetime.js';
import { nbytesOf } from './sessions.js';
import { TensorBinding, bytesOf, newBytes, refusals } from './tensor_binding.js';

/** @typedef {import('./sessions.js').Slot} Slot */
/** @typedef {import('./sessions.js').Shared} Shared */
/** @typedef {import('./sessions.js').Memory} Memory */
/** @typedef {import('./sessions.js').Backend} Backend */
/** @typedef {import('./sessions.js').Constants} Constants */
/** @typedef {import('./sessions.js').Session} Session */
/** @typedef {import('./sessions.js').Binding} Binding */
/** @typedef {import('./description.js').DecoderDescription} DecoderDescription */
/** @typedef {typeof import('onnxruntime-common')} Ort */
/** @typedef {{name: string, longestChunk: number}} Adapter */
/** @typedef {any} Device a GPUDevice, whose types TypeScript does not have */

const DATA_NAME = DATA_FILE.split('/')[1]; // as the graphs name it
// attention over 32 queries or more adds up keys that it has not loaded where a subgroup has fewer lanes than 8: source
// onnxruntime/contrib_ops/webgpu/bert/flash_attention.wgsl.template, whose `qk_2` is used for all sizes
const EIGHT_LANES = 8;
const SHORT_CHUNK = 31;
const SMALLEST = 16; // bytes of a buffer
const [STORAGE, COPY_SRC, COPY_DST] = [128, 4, 8]; // GPUBufferUsage

/** @implements {Backend} */
export class GpuBackend {
  readsAllSlots = true; // a state that grows takes less of the GPU's memory
  drafts = false; // its products of several rows are other ones than those of a single row
  threads = 1;
  leastRank = 1; // it binds no buffer for a tensor without numbers
  lifetime = new Lifetime();

  /**
   * @param {Ort} ort of onnxruntime-web @param {Adapter} adapter @param {import('./source.js').Source} source
   * @param {DecoderDescription} description
   */
  constructor(ort, adapter, source, description) {
    this.ort = ort;
    this.kernels = `onnxruntime-web on WebGPU (${adapter.name})`;
    this.longestChunk = adapter.longestChunk;
    this.source = source;
    this.description = description;
    /** @type {Device} */
    this.device = null;
    /** @type {{fault: string | null}} of the device, which tells it to nobody that waits */
    this.health = { fault: null };
    this.watching = new AbortController();
  }

  /** @param {string} file @param {Uint8Array} bytes of the graph */
  async open(file, bytes) {
    const { graph, presents, rest } = gpuGraph(bytes, file, this.description);
    const data = await this.source.bytes(DATA_FILE);
    const options = {
      executionProviders: ['webgpu'],
      logSeverityLevel: /** @type {const} */ (4),
      externalData: [{ path: DATA_NAME, data }],
      preferredOutputLocation: Object.fromEntries(presents.map((name) => [name, /** @type {const} */ ('gpu-buffer')])),
    };
    const session = await refusals(`open ${file}`, this.ort.InferenceSession.create(graph, options));
    if (!this.device) await this.watch();
    return new GpuSession(this, session, rest);
  }

  /** Note the faults of the device that onnxruntime computes on. */
  async watch() {
    this.device = await this.ort.env.webgpu.device;
    const { health } = this; // the device outlives the model, and holds no more of it
    this.device.addEventListener(
      'uncapturederror',
      (/** @type {any} */ { error }) => {
        health.fault ??= oneLine(error.message);
      },
      { signal: this.watching.signal },
    );
    this.device.lost.then((/** @type {any} */ { message }) => {
      health.fault ??= `the device is lost, ${oneLine(message)}`;
    });
  }

  /** @param {number} nbytes @returns {Memory} */
  allocate(nbytes) {
    return new GpuMemory(this.device, nbytes);
  }

  /** @param {import('./sessions.js').Arrays} arrays */
  constants(arrays) {
    return new GpuConstants(this, arrays);
  }

  async dispose() {
    this.watching.abort();
  }
}

/** The memory of a state, and its parts on the GPU from the first binding on. @implements {Memory} */
class GpuMemory {
  /** @param {Device} device @param {number} nbytes */
  constructor(device, nbytes) {
    this.device = device;
    this.nbytes = nbytes;
    this.content = newBytes(nbytes);
    /** @type {{offset: number, nbytes: number, buffer: any}[]} */
    this.parts = [];
  }

  bytes() {
    return this.content;
  }

  /** The buffer of a part, which begins with what JavaScript has of it. @param {number} offset @param {number} nbytes */
  bufferOf(offset, nbytes) {
    const known = this.parts.find((part) => part.offset === offset);
    if (known) return known.buffer;
    const usage = STORAGE | COPY_SRC | COPY_DST;
    const buffer = this.device.createBuffer({ size: nbytes, usage, mappedAtCreation: true });
    new Uint8Array(buffer.getMappedRange()).set(this.content.subarray(offset, offset + nbytes));
    buffer.unmap();
    this.parts.push({ offset, nbytes, buffer });
    return buffer;
  }

  /** @param {number} offset @param {number} nbytes */
  changed(offset, nbytes) {
    const part = this.parts.find((each) => offset >= each.offset && offset < each.offset + each.nbytes);
    if (part) this.device.queue.writeBuffer(part.buffer, offset - part.offset, this.content, offset, nbytes);
  }

  dispose() {
    for (const { buffer } of this.parts.splice(0)) buffer.destroy();
  }
}

/** The matrices of an adapter in buffers of the GPU. @implements {Constants} */
class GpuConstants {
  /** @param {GpuBackend} backend @param {import('./sessions.js').Arrays} arrays */
  constructor({ ort, device }, arrays) {
    /** @type {any[]} */
    this.buffers = [];
    /** @type {Record<string, import('onnxruntime-common').Tensor>} */
    this.tensors = {};
    for (const [name, { dims, values }] of arrays) {
      const size = Math.max(values.byteLength, SMALLEST);
      const buffer = device.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST, mappedAtCreation: true });
      new Float32Array(buffer.getMappedRange()).set(values);
      buffer.unmap();
      this.buffers.push(buffer);
      this.tensors[name] = ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims });
    }
  }

  dispose() {
    for (const buffer of this.buffers.splice(0)) buffer.destroy();
  }
}

/** @implements {Session} */
class GpuSession {
  /**
   * @param {GpuBackend} backend @param {import('onnxruntime-common').InferenceSession} session
   * @param {import('./doubles.js').Rest} rest
   */
  constructor(backend, session, rest) {
    this.backend = backend;
    this.session = session;
    this.rest = rest;
  }

  /**
   * @param {readonly Slot[]} inputs @param {readonly Slot[]} outputs @param {readonly Shared[]} shared
   * @param {Memory} memory @param {import('./sessions.js').Constants | null} constants
   */
  bind(inputs, outputs, shared, memory, constants) {
    const binding = new GpuBinding(this, inputs, outputs, shared, memory);
    Object.assign(binding.feeds, constants?.tensors);
    return binding;
  }

  async dispose() {
    await this.session.release();
  }
}

/** @implements {Binding} */
class GpuBinding extends TensorBinding {
  /**
   * @param {GpuSession} session @param {readonly Slot[]} inputs @param {readonly Slot[]} outputs
   * @param {readonly Shared[]} shared @param {Memory} memory
   */
  constructor({ backend, session, rest }, inputs, outputs, shared, memory) {
    super(backend.ort, session, inputs, outputs, shared, memory);
    this.backend = backend;
    this.rest = rest;
    for (const { input, output, dims, offset } of shared) {
      const nbytes = nbytesOf({ type: 'float32', dims });
      const buffer = /** @type {GpuMemory} */ (memory).bufferOf(offset, nbytes);
      const tensor = backend.ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims });
      this.feeds[input] = tensor;
      this.fetches[output] = tensor; // the same buffer: attention writes behind the past
    }
    this.fetches[NEW_ROWS] = null;
  }

  /** @param {string} name @param {ArrayLike<number>} values */
  write(name, values) {
    super.write(name, values);
    if (name !== 'position_ids') return;
    for (const [table, { rows, columns, values: numbers }] of this.rest.compute(values)) {
      this.feeds[table] = new this.ort.Tensor('float32', Float32Array.from(numbers), [rows, columns]);
    }
  }

  async run() {
    /** @type {unknown} */
    let refusal = null;
    await super.run().catch((error) => {
      refusal = error;
    });
    const { fault } = this.backend.health; // the reason of a refusal, too
    if (fault !== null) {
      throw new PackageError(
        `the GPU failed (${fault}); load the page again, or take WebAssembly, which is executionProviders: ["wasm"]`,
      );
    }
    if (refusal !== null) throw refusal;
  }

  /** @param {Shared} _shared @param {number} index */
  newRows(_shared, index) {
    const rows = bytesOf(this.results[NEW_ROWS]);
    const nbytes = rows.length / this.shared.length;
    return rows.subarray(index * nbytes, (index + 1) * nbytes);
  }
}

/**
 * A GPU that the browser gives; OptionError where it gives none, or where the model is not for it.
 * @param {DecoderDescription} description
 * @returns {Promise<Adapter>}
 */
export async function findAdapter({ cacheType }) {
  const gpu = /** @type {any} */ (globalThis.navigator)?.gpu;
  const adapter = await gpu?.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) {
    const lack = gpu
      ? 'finds no GPU that it may use'
      : 'has no WebGPU, or the page comes neither by https nor from localhost';
    throw new OptionError(`this browser ${lack}; take WebAssembly, which is executionProviders: ["wasm"]`);
  }
  if (cacheType === 'int8') {
    throw new OptionError(
      'the state of this folder is in 8 bits, which attention on WebGPU does not read; take WebAssembly, which is ' +
        'executionProviders: ["wasm"], or export the checkpoint without --kv-int8',
    );
  }
  const { vendor, architecture, description, subgroupMinSize = EIGHT_LANES } = adapter.info;
  return {
    name: [vendor, architecture].filter(Boolean).join(' ') || description || 'a GPU without a name',
    longestChunk: subgroupMinSize < EIGHT_LANES ? SHORT_CHUNK : Infinity,
  };
}
