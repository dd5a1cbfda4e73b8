/** Opening an exported folder: where it lies, who computes it, and on how many threads. */

import { Adapters } from './adapters.js';
import { checkCall } from './call_options.js';
import { Decoder } from './decoder.js';
import { checkWebAssembly, isNode } from './environment.js';
import { OptionError, PackageError, oneLine, shown } from './errors.js';
import { checkedFolder } from './folder_files.js';
import { generationDefaults } from './generation_options.js';
import { GpuBackend, findAdapter } from './gpu_session.js';
import { HeapBackend } from './heap_session.js';
import { Model } from './model.js';
import { NativeBackend } from './native_session.js';
import { Sessions } from './sessions.js';
import { FolderSource, parseJson } from './source.js';
import { Tokenizer, checkTokenizer } from './tokenizer.js';
import { Unreachable, WebSource } from './web_source.js';

/**
 * @typedef {object} LoadOptions
 * @property {typeof import('onnxruntime-common')} [ort] the module onnxruntime-node, where it is not to be imported
 * @property {number} [threads] of the computation; by default one for small models, else one per core
 * @property {readonly ('cpu' | 'wasm' | 'webgpu')[]} [executionProviders] cpu is onnxruntime-node, the default in Node; wasm
 * is onnxruntime-web, the default elsewhere; webgpu is onnxruntime-web on a browser's GPU
 * @property {string | URL} [wasmPaths] the folder with onnxruntime-web's files; by default the package's own in Node, and
 * the folder onnxruntime beside this file elsewhere
 * @property {string | null} [cache] name of the browser's cache storage for the files; null keeps none
 * @property {import('./source.js').OnProgress} [onProgress] told of every part of a download
 * @property {AbortSignal} [signal] ends a download
 */

const WASM_MODULE = 'ort-wasm-simd-threaded.mjs';
const GPU_MODULE = 'ort.webgpu.min.mjs';
const PROVIDERS = ['cpu', 'wasm', 'webgpu'];
const OPTIONS = ['ort', 'threads', 'executionProviders', 'wasmPaths', 'cache', 'onProgress', 'signal'];
const MOST_THREADS = 8;
const ONE_THREAD_BYTES = 32 * 2 ** 20; // as in `runtime/threads.py`

/**
 * Load an exported folder: a path in Node, a URL anywhere. PackageError where it is none or cannot be run here.
 * @param {string | URL} location @param {LoadOptions} [options]
 */
export async function load(location, options = {}) {
  checkOptions(options);
  if (providerOf(options) !== 'cpu') checkWebAssembly(); // before anything is downloaded
  const source = await sourceOf(location, options);
  try {
    return await opened(source, options);
  } catch (error) {
    if (!(error instanceof Unreachable) || !(await source.goOffline())) throw error;
    return opened(source, options); // all files from the copy of the last time, so that they belong together
  }
}

/** @param {FolderSource | WebSource} source @param {LoadOptions} options */
async function opened(source, options) {
  const { description, graphs } = await checkedFolder(source);
  const tokenizer = await Tokenizer.fromSource(source);
  checkTokenizer(tokenizer, description.vocabSize);
  const [generation, config] = await Promise.all(
    ['generation_config.json', 'config.json'].map(async (file) => {
      const text = await source.text(file);
      return text === null ? null : parseJson(text, file);
    }),
  );
  const defaults = generationDefaults(generation, config);
  if (defaults.unused.length) {
    console.warn(`generation_config.json sets ${defaults.unused.join(' and ')}, which the runtime does not use`);
  }
  const backend = await backendOf(source, options, description);
  const sessions = new Sessions(backend, graphs);
  try {
    const decoder = await Decoder.open(backend, description, sessions);
    const adapters = await Adapters.of(source, decoder);
    await source.keep();
    if (source.unkept) console.warn(`the files are not there for offline use: ${source.unkept}`);
    return new Model(decoder, tokenizer, defaults, source.name, source.unkept, adapters);
  } catch (error) {
    await sessions.dispose();
    await backend.dispose();
    throw error;
  }
}

/** @param {LoadOptions} options */
function checkOptions(options) {
  checkCall(options);
  for (const name of Object.keys(options)) {
    if (!OPTIONS.includes(name))
      throw new OptionError(`load has no option ${shown(name)}; the options are ${OPTIONS.join(', ')}`);
  }
  const { threads, executionProviders, ort } = options;
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 64)) {
    throw new OptionError(`threads is ${shown(threads)}; it must be a whole number from 1 to 64`);
  }
  const isKnown =
    executionProviders === undefined ||
    (Array.isArray(executionProviders) && executionProviders.length === 1 && PROVIDERS.includes(executionProviders[0]));
  if (!isKnown)
    throw new OptionError(
      `executionProviders is ${shown(executionProviders)}; it must be ["cpu"] for onnxruntime-node, or ["wasm"] ` +
        'or ["webgpu"] for onnxruntime-web',
    );
  if (ort !== undefined && typeof ort?.InferenceSession?.create !== 'function')
    throw new OptionError(`ort is ${shown(ort)}; it must be the module onnxruntime-node, as import gives it`);
}

/** @param {LoadOptions} options */
function providerOf({ executionProviders }) {
  return executionProviders?.[0] ?? (isNode() ? 'cpu' : 'wasm');
}

/** @param {string | URL} location @param {LoadOptions} options */
async function sourceOf(location, { cache = 'doge-export', onProgress = () => {}, signal }) {
  const text = String(location);
  const isOne = typeof location === 'string' || location instanceof URL;
  if (isOne && isNode() && !/^https?:/.test(text)) return FolderSource.at(text);
  const base = 'location' in globalThis ? globalThis.location.href : undefined;
  const isUrl = isOne && URL.canParse(text, base) && URL.canParse('onnx/', new URL(text, base)); // javascript:x has no files
  if (!isUrl) throw new OptionError(`the location is ${shown(location)}; it must be a URL, or in Node a path`);
  return new WebSource(new URL(text, base), { cache, onProgress, signal });
}

/**
 * @param {FolderSource | WebSource} source @param {LoadOptions} options
 * @param {import('./description.js').DecoderDescription} description
 */
async function backendOf(source, options, description) {
  const provider = providerOf(options);
  if (provider === 'webgpu') return gpuBackend(source, options, description);
  const threads = options.threads ?? defaultThreads((await source.data()).size, await cores());
  if (provider === 'wasm') {
    checkIsolation(threads, options.threads !== undefined);
    const folder = wasmFolder(options.wasmPaths);
    const factory = await imported(new URL(WASM_MODULE, folder).href);
    return HeapBackend.start(factory, folder, source, isIsolated() ? threads : 1);
  }
  if (!(source instanceof FolderSource)) {
    throw new OptionError('onnxruntime-node opens local folders only; give a path, or executionProviders: ["wasm"]');
  }
  return new NativeBackend(options.ort ?? (await nativeOrt()), source, threads, description);
}

/**
 * @param {FolderSource | WebSource} source @param {LoadOptions} options
 * @param {import('./description.js').DecoderDescription} description
 */
async function gpuBackend(source, { wasmPaths }, description) {
  if (isNode())
    throw new OptionError('executionProviders is ["webgpu"], which is for browsers; in Node give ["cpu"] or ["wasm"]');
  const adapter = await findAdapter(description);
  const folder = wasmFolder(wasmPaths);
  const ort = await imported(new URL(GPU_MODULE, folder).href);
  // what the GPU does not compute is small: no threads, and no headers for them
  Object.assign(ort.env.wasm, { wasmPaths: folder.href, numThreads: 1 });
  return new GpuBackend(ort, adapter, source, description);
}

/** @param {number} nbytes of the weights @param {number} available */
export function defaultThreads(nbytes, available) {
  return nbytes <= ONE_THREAD_BYTES ? 1 : Math.min(available, MOST_THREADS);
}

async function cores() {
  if (isNode()) return (await import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:os')).availableParallelism();
  return globalThis.navigator.hardwareConcurrency;
}

const isIsolated = () => isNode() || Boolean(globalThis.crossOriginIsolated);

/** @param {number} threads @param {boolean} isWish */
function checkIsolation(threads, isWish) {
  if (threads === 1 || isIsolated() || !isWish) return;
  throw new OptionError(
    `threads is ${threads}, but this page is not cross-origin isolated, so it may use 1; serve it with the headers ` +
      'Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp',
  );
}

/** @param {string | URL} [wasmPaths] */
function wasmFolder(wasmPaths) {
  if (wasmPaths !== undefined)
    return new URL(String(wasmPaths).replace(/\/?$/, '/'), globalThis.location?.href ?? `file://${process.cwd()}/`);
  if (!isNode()) return new URL('./onnxruntime/', import.meta.url); // where assemble.js puts it
  try {
    return new URL('./', import.meta.resolve(`onnxruntime-web/${WASM_MODULE}`));
  } catch {
    throw new PackageError('onnxruntime-web is not installed; run npm install onnxruntime-web');
  }
}

/** @param {string} url */
async function imported(url) {
  try {
    return (await import(/* webpackIgnore: true */ /* @vite-ignore */ url)).default;
  } catch (error) {
    throw new PackageError(
      `onnxruntime-web cannot be loaded from ${url} (${oneLine(error)}); give its folder dist as wasmPaths`,
    );
  }
}

/** @returns {Promise<typeof import('onnxruntime-common')>} */
async function nativeOrt() {
  try {
    const name = 'onnxruntime-node'; // named by a variable, so that no bundler takes it into a page
    const module = await import(/* webpackIgnore: true */ /* @vite-ignore */ name);
    return module.default ?? module;
  } catch (error) {
    throw new PackageError(
      `onnxruntime-node cannot be loaded (${oneLine(error)}); run npm install onnxruntime-node, or give executionProviders: ["wasm"]`,
    );
  }
}
