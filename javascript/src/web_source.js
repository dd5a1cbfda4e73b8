/** A folder on the web, with a copy in the browser that serves where there is no network. */

import { DATA_FILE } from './description.js';
import { PackageError, oneLine } from './errors.js';
import { OfflineCopy } from './offline_copy.js';
import { REPORT_FILE, asText, joined, missing, parseJson } from './source.js';

/** @typedef {import('./source.js').Source} Source */
/** @typedef {import('./source.js').DataPages} DataPages */
/** @typedef {import('./source.js').ExpectedData} ExpectedData */

const SERVER_FAULT = 500; // statuses from there on say nothing of the file

/** The connection or the server is at fault; another time, or a copy, may do. */
export class Unreachable extends PackageError {
  name = 'PackageError';
}

/**
 * Each file is asked for once a load, so what was checked is what is used. The copy is replaced by `keep`, once the folder
 * has been opened: an update that breaks off or does not fit together leaves it as it was.
 * @implements {Source}
 */
export class WebSource {
  /**
   * @param {URL} url of the folder
   * @param {{cache: string | null, onProgress: import('./source.js').OnProgress, signal: AbortSignal | undefined}} options
   * cache: the name of the cache storage to keep files in, null for none
   */
  constructor(url, { cache, onProgress, signal }) {
    this.url = new URL(url);
    this.url.hash = '';
    if (!url.pathname.endsWith('/')) this.url.pathname += '/';
    this.name = nameOf(this.url);
    this.copy = cache !== null && 'caches' in globalThis ? new OfflineCopy(this.url, cache) : null;
    this.onProgress = onProgress;
    this.signal = signal;
    this.isOffline = false;
    this.isOpen = false;
    /** @type {Map<string, Uint8Array | null>} */
    this.files = new Map(); // as they were read, null for one that is missing
    /** @type {Uint8Array | null} */
    this.weights = null; // held while the folder is being opened, or where they are not kept
    this.weightsAreKept = false;
    /** @type {ExpectedData | null} */
    this.expected = null;
    /** @type {string | null} */
    this.unkept = this.copy || cache === null ? null : 'this page has no cache storage';
  }

  /** @param {ExpectedData} expected */
  expect(expected) {
    this.expected = expected;
  }

  /** @param {string} file */
  async bytes(file) {
    const bytes = file === DATA_FILE ? await this.dataBytes() : await this.read(file);
    if (bytes !== null) return bytes;
    throw this.isOffline ? this.notKept(file) : missing(this.addressOf(file));
  }

  /** @param {string} file */
  notKept(file) {
    return new PackageError(
      `${this.addressOf(file)} is not in the copy that the browser keeps, and there is no connection; try again with one`,
    );
  }

  /** @param {string} file */
  async text(file) {
    const bytes = await this.read(file);
    return bytes && asText(bytes, this.addressOf(file));
  }

  /** @param {string} file */
  async size(file) {
    return (file === DATA_FILE ? await this.dataBytes() : await this.read(file))?.length ?? null;
  }

  /** The report lists the files of a folder, which the web does not. @param {string} folder @param {string} ending */
  async list(folder, ending) {
    const report = await this.text(REPORT_FILE);
    const files = Object.keys(report === null ? {} : (parseJson(report, REPORT_FILE).files ?? {}));
    return files
      .filter((file) => file.startsWith(`${folder}/`) && file.endsWith(ending))
      .map((file) => file.slice(folder.length + 1))
      .sort();
  }

  /** That of the web, or where there is no connection the one that `keepLater` kept. @param {string} file */
  async bytesLater(file) {
    if (this.isOffline) return (await this.keptLater(file)) ?? Promise.reject(this.notKept(file));
    try {
      return await this.download(file);
    } catch (error) {
      const kept = error instanceof Unreachable ? await this.keptLater(file) : null;
      if (kept === null) throw error;
      return kept;
    }
  }

  /** @param {string} file */
  async keptLater(file) {
    const { expected } = this;
    return expected && this.fromCopy((copy) => copy.later(file, expected.hash));
  }

  /** @param {ReadonlyMap<string, Uint8Array>} files */
  async keepLater(files) {
    if (!this.copy || !this.expected || this.isOffline) return;
    try {
      await this.copy.keepLater(files, this.expected.hash);
    } catch (error) {
      console.warn(`${[...files.keys()].join(', ')} will not be there for offline use (${oneLine(error)})`);
    }
  }

  async data() {
    return pagesOf(await this.bytes(DATA_FILE));
  }

  /** From now on read the copy in the browser alone; false where there is none. */
  async goOffline() {
    const files = await this.fromCopy((copy) => copy.files());
    if (!files) return false;
    this.files = new Map(files);
    [this.weights, this.weightsAreKept] = [null, false]; // they may be those of an update
    this.isOffline = true;
    return true;
  }

  /** The folder is open: keep its files for offline use, and the weights in memory only where they cannot be had again. */
  async keep() {
    this.signal = undefined; // it ends a download
    this.isOpen = true;
    if (this.copy && this.expected && !this.isOffline) {
      const there = [...this.files].filter(([, bytes]) => bytes !== null);
      const files = /** @type {Map<string, Uint8Array>} */ (new Map(there));
      try {
        await this.copy.replace(files, this.expected.hash, this.weightsAreKept ? null : this.weights);
        this.weightsAreKept = true;
        this.unkept = null;
      } catch (error) {
        this.unkept = `the browser does not keep them (${oneLine(error)})`;
      }
    }
    if (this.weightsAreKept) this.weights = null;
    this.files = new Map(); // the graphs are held by who opens them
  }

  /** The weights that the graphs expect: those of the copy, or those of the web. */
  async dataBytes() {
    const bytes =
      this.weights ?? (await this.keptWeights()) ?? (this.isOffline ? null : await this.download(DATA_FILE));
    if (!this.weights && bytes) await this.expected?.check(pagesOf(bytes));
    if (!this.isOpen) this.weights = bytes;
    return bytes;
  }

  /** Those of the copy, where they are certain to be the ones that the graphs expect. */
  async keptWeights() {
    const { expected } = this;
    const kept = expected && (await this.fromCopy((copy) => copy.weights(expected.hash)));
    if (!kept) return null;
    // graphs that cannot tell theirs from others take none of the copy while there is a network
    const areTheirs = expected.isSure ? await fits(kept, expected) : this.isOffline || this.weightsAreKept;
    if (!areTheirs) return null;
    this.weightsAreKept = true;
    return kept;
  }

  /** @param {string} file */
  async read(file) {
    const known = this.files.get(file);
    if (known !== undefined || this.isOffline) return known ?? null;
    const bytes = await this.download(file);
    this.files.set(file, bytes);
    return bytes;
  }

  /** @template T @param {(copy: OfflineCopy) => Promise<T>} read null where the browser refuses */
  async fromCopy(read) {
    try {
      return this.copy && (await read(this.copy));
    } catch (error) {
      this.unkept = `the browser does not keep them (${oneLine(error)})`;
      return null;
    }
  }

  /** The bytes of a file on the web, null where it is missing. @param {string} file */
  async download(file) {
    const url = this.addressOf(file);
    let response;
    try {
      response = await fetch(url, { signal: this.signal, cache: 'no-cache' }); // else the browser may give an old one
    } catch (error) {
      throw this.failure(url, error);
    }
    if (response.status === 404) return null;
    if (!response.ok) {
      const Fault = response.status >= SERVER_FAULT ? Unreachable : PackageError;
      throw new Fault(
        `${url} cannot be loaded: the server answers ${response.status} ${response.statusText}`.trimEnd(),
      );
    }
    return this.received(response, file, url);
  }

  /** @param {Response} response @param {string} file @param {string} url */
  async received(response, file, url) {
    const total = Number(response.headers.get('Content-Length')) || 0;
    const reader = response.body?.getReader();
    /** @type {Uint8Array[]} */
    const parts = [];
    let loaded = 0;
    const next = () => reader?.read().catch((error) => Promise.reject(this.failure(url, error)));
    for (let part = await next(); part && !part.done; part = await next()) {
      parts.push(part.value);
      loaded += part.value.length;
      this.onProgress({ file, loaded, total: Math.max(total, loaded) });
    }
    const encoded = response.headers.get('Content-Encoding') !== null; // then the length is that of the packed file
    if (total && !encoded && loaded !== total)
      throw new Unreachable(`${url} ended after ${loaded} of ${total} bytes; load the page again`);
    return joined(parts, loaded, url);
  }

  /** @param {string} file */
  addressOf(file) {
    const address = new URL(file, this.url);
    address.search = this.url.search;
    return address.href;
  }

  /** @param {string} url @param {unknown} error */
  failure(url, error) {
    if (this.signal?.aborted) return this.signal.reason;
    return new Unreachable(
      `${url} cannot be loaded (${oneLine(error)}); look at the address and the connection, and try again`,
    );
  }
}

/** @param {Uint8Array} bytes @param {ExpectedData} expected */
async function fits(bytes, expected) {
  try {
    await expected.check(pagesOf(bytes));
    return true;
  } catch (error) {
    if (error instanceof PackageError) return false;
    throw error;
  }
}

/** @param {Uint8Array} bytes @returns {DataPages} */
function pagesOf(bytes) {
  return { size: bytes.length, page: async (from, to) => bytes.subarray(from, to) };
}

/** The last part of the path, as it is written where it is no UTF-8. @param {URL} url */
function nameOf(url) {
  const last = url.pathname.split('/').filter(Boolean).pop() ?? url.host;
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}
