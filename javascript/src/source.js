/** Where the files of an exported folder come from: a local folder in Node, or the web with a cache for offline use. */

import { DATA_FILE } from './description.js';
import { PackageError, oneLine } from './errors.js';

/**
 * @typedef {object} Source
 * @property {string} name of the folder
 * @property {(file: string) => Promise<Uint8Array>} bytes PackageError where it is missing
 * @property {(file: string) => Promise<string | null>} text null where it is missing
 * @property {() => Promise<readonly string[]>} templates names of the files in additional_chat_templates
 * @property {() => Promise<DataPages>} data
 * @property {() => void} release called when the folder is open
 */

/**
 * The size of the data file, and a way to read parts of it.
 * @typedef {{size: number, page(from: number, to: number): Promise<Uint8Array>}} DataPages
 */

/** @typedef {(progress: {file: string, loaded: number, total: number}) => void} OnProgress */

const TEMPLATES = 'additional_chat_templates';
const REPORT_FILE = 'export_report.json';

/** @param {string} what */
const missing = (what) =>
  new PackageError(`${what} is missing; give a folder that doge-export wrote, or export the model again`);

/** A folder on disk. @implements {Source} */
export class FolderSource {
  /**
   * @param {string} folder
   * @param {{fs: typeof import('node:fs/promises'), path: typeof import('node:path')}} node
   */
  constructor(folder, { fs, path }) {
    this.fs = fs;
    this.path = path;
    this.folder = folder;
    this.name = path.basename(path.resolve(folder));
  }

  /** @param {string} folder a path, or a file: URL */
  static async at(folder) {
    const [fs, path, url] = await Promise.all([
      // which bundlers leave alone
      import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:fs/promises'),
      import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:path'),
      import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:url'),
    ]);
    const source = new FolderSource(folder.startsWith('file:') ? url.fileURLToPath(folder) : folder, { fs, path });
    if (!(await fs.stat(source.folder).catch(() => null))?.isDirectory()) {
      throw new PackageError(`there is no folder ${JSON.stringify(source.folder)}; give one that doge-export wrote`);
    }
    return source;
  }

  /** @param {string} file */
  pathOf(file) {
    return this.path.join(this.folder, file);
  }

  /** @param {string} file */
  async bytes(file) {
    return /** @type {Uint8Array} */ (await this.read(file)) ?? Promise.reject(missing(this.pathOf(file)));
  }

  /** @param {string} file */
  async text(file) {
    const bytes = await this.read(file);
    return bytes && asText(bytes, this.pathOf(file));
  }

  /** @param {string} file */
  async read(file) {
    try {
      const { buffer, byteOffset, byteLength } = await this.fs.readFile(this.pathOf(file));
      return new Uint8Array(buffer, byteOffset, byteLength); // slice() of a Buffer does not copy
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code === 'ENOENT') return null;
      throw new PackageError(`${this.pathOf(file)} cannot be read (${oneLine(error)})`);
    }
  }

  async templates() {
    const names = await this.fs.readdir(this.pathOf(TEMPLATES)).catch(() => /** @type {string[]} */ ([]));
    return names.filter((name) => name.endsWith('.jinja')).sort();
  }

  release() {}

  async data() {
    const path = this.pathOf(DATA_FILE);
    const stat = await this.fs.stat(path).catch(() => null);
    if (!stat) throw missing(path);
    return {
      size: stat.size,
      page: async (/** @type {number} */ from, /** @type {number} */ to) => {
        const file = await this.fs.open(path);
        try {
          return (await file.read(new Uint8Array(to - from), 0, to - from, from)).buffer;
        } finally {
          await file.close();
        }
      },
    };
  }
}

/** A folder on the web. @implements {Source} */
export class WebSource {
  /**
   * @param {URL} url of the folder
   * @param {{cache: string | null, onProgress: OnProgress, signal: AbortSignal | undefined}} options cache: the name
   * of the cache storage to keep files in, null for none
   */
  constructor(url, { cache, onProgress, signal }) {
    this.url = url.href.endsWith('/') ? url : new URL(`${url.href}/`);
    this.name = decodeURIComponent(this.url.pathname.split('/').filter(Boolean).pop() ?? this.url.host);
    this.cacheName = 'caches' in globalThis ? cache : null;
    this.onProgress = onProgress;
    this.signal = signal;
    /** @type {Uint8Array | null} */
    this.held = null; // the data file, while the folder is being opened, or where there is no cache
  }

  /** @param {string} file */
  async bytes(file) {
    if (file === DATA_FILE && this.held) return this.held;
    const bytes = await this.read(file);
    if (bytes === null) throw missing(new URL(file, this.url).href);
    if (file === DATA_FILE) this.held = bytes;
    return bytes;
  }

  /** The folder is open: the data file is kept in memory only where it would have to be loaded again. */
  release() {
    if (this.cacheName !== null) this.held = null;
  }

  /** @param {string} file */
  async text(file) {
    const bytes = await this.read(file);
    return bytes && asText(bytes, new URL(file, this.url).href);
  }

  /** The report lists the files of a folder, which the web does not. */
  async templates() {
    const report = await this.text(REPORT_FILE);
    const files = Object.keys(report === null ? {} : (parseJson(report, REPORT_FILE).files ?? {}));
    return files
      .filter((file) => file.startsWith(`${TEMPLATES}/`) && file.endsWith('.jinja'))
      .map((file) => file.slice(TEMPLATES.length + 1))
      .sort();
  }

  async data() {
    const bytes = await this.bytes(DATA_FILE);
    return {
      size: bytes.length,
      page: async (/** @type {number} */ from, /** @type {number} */ to) => bytes.subarray(from, to),
    };
  }

  /**
   * Small files are asked for anew and the cache serves offline; the data file comes from the cache.
   * @param {string} file
   */
  async read(file) {
    const url = new URL(file, this.url).href;
    const cache = this.cacheName === null ? null : await globalThis.caches.open(this.cacheName);
    const kept = async () => {
      const stored = await cache?.match(url);
      return stored && { isThere: stored.ok, bytes: new Uint8Array(await stored.arrayBuffer()) };
    };
    const data = file === DATA_FILE ? await kept() : undefined;
    if (data?.isThere) return data.bytes;
    let response;
    try {
      response = await fetch(url, { signal: this.signal });
    } catch (error) {
      const stored = this.signal?.aborted ? undefined : await kept();
      if (stored) return stored.isThere ? stored.bytes : null;
      throw this.failure(url, error);
    }
    if (response.status === 404) {
      await cache?.put(url, new Response(null, { status: 404 })); // offline, too, it is known to be missing
      return null;
    }
    if (!response.ok)
      throw new PackageError(`${url} cannot be loaded: the server answers ${response.status} ${response.statusText}`);
    const bytes = await this.received(response, file, url);
    // only a whole file, and only now, so nothing is half-cached
    await cache
      ?.put(url, new Response(/** @type {BlobPart} */ (bytes), { headers: { 'Content-Length': String(bytes.length) } }))
      .catch(() =>
        this.onProgress({
          file: `${file} (too large to be kept for offline use)`,
          loaded: bytes.length,
          total: bytes.length,
        }),
      );
    return bytes;
  }

  /** Forget a file that does not belong to the others. @param {string} file */
  async forget(file) {
    if (this.cacheName === null) return false;
    this.held = null;
    return (await globalThis.caches.open(this.cacheName)).delete(new URL(file, this.url).href);
  }

  /** @param {Response} response @param {string} file @param {string} url */
  async received(response, file, url) {
    const total = Number(response.headers.get('Content-Length') ?? 0);
    const reader = response.body?.getReader();
    /** @type {Uint8Array[]} */
    const parts = [];
    let loaded = 0;
    try {
      for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
        parts.push(part.value);
        loaded += part.value.length;
        this.onProgress({ file, loaded, total: Math.max(total, loaded) });
      }
    } catch (error) {
      throw this.failure(url, error);
    }
    const encoded = response.headers.get('Content-Encoding') !== null; // then the length is that of the packed file
    if (total && !encoded && loaded !== total) {
      throw new PackageError(`${url} ended after ${loaded} of ${total} bytes; load the page again`);
    }
    return joined(parts, loaded);
  }

  /** @param {string} url @param {unknown} error */
  failure(url, error) {
    if (this.signal?.aborted) return this.signal.reason;
    return new PackageError(
      `${url} cannot be loaded (${oneLine(error)}); look at the address and the connection, and try again`,
    );
  }
}

/** @param {Uint8Array[]} parts @param {number} length */
function joined(parts, length) {
  const whole = new Uint8Array(length);
  let at = 0;
  for (let part = parts.shift(); part; part = parts.shift()) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {Uint8Array} bytes @param {string} file */
function asText(bytes, file) {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new PackageError(`${file} is not UTF-8 text; export the model again`);
  }
}

/**
 * The JSON object in a text; PackageError for anything else.
 * @param {string} text
 * @param {string} file
 * @returns {Record<string, any>}
 */
export function parseJson(text, file) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new PackageError(`${file} cannot be read as JSON (${oneLine(error)}); export the model again`);
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new PackageError(`${file} must hold a JSON object; export the model again`);
  }
  return value;
}
