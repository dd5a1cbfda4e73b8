/**
 * The files of one folder in the browser's cache storage, for use without a network.
 *
 * All but the weights are one entry, which is replaced as a whole. The weights are an entry by their own hash. So at any
 * moment there is one copy whose files belong together, or none. Files that only some calls need, as those of adapters,
 * are entries by the hash of the weights, each from the time that it was first needed.
 */

import { DATA_FILE } from './description.js';

const FILES = '?kept=files'; // behind the folder's address
const WEIGHTS = '?kept='; // behind that of the data file

export class OfflineCopy {
  /** @param {URL} folder @param {string} name of the cache storage */
  constructor(folder, name) {
    this.address = new URL(FILES, folder).href;
    this.data = new URL(DATA_FILE, folder).href;
    this.folders = ['onnx/', 'adapters/'].map((name) => new URL(name, folder).href); // those of all entries but one
    this.name = name;
  }

  /** The files but the weights; null where there is no copy. */
  async files() {
    const form = await (await (await this.cache()).match(this.address))?.formData();
    if (!form) return null;
    /** @type {Map<string, Uint8Array>} */
    const files = new Map();
    for (const [file, content] of form.entries()) {
      if (typeof content !== 'string') files.set(file, new Uint8Array(await content.arrayBuffer()));
    }
    return files;
  }

  /** The weights with this hash; null where they are not kept. @param {string} hash */
  async weights(hash) {
    const bytes = await (await (await this.cache()).match(this.weightsAddress(hash)))?.arrayBuffer();
    return bytes ? new Uint8Array(bytes) : null;
  }

  /**
   * Replace the copy. Nothing of the former one goes before all of this one is there.
   * @param {ReadonlyMap<string, Uint8Array>} files @param {string} hash of the weights
   * @param {Uint8Array | null} weights null where they are kept already
   */
  async replace(files, hash, weights) {
    const cache = await this.cache();
    const own = this.weightsAddress(hash);
    if (weights) await cache.put(own, new Response(/** @type {BlobPart} */ (weights)));
    const form = new FormData();
    for (const [file, bytes] of files) form.append(file, new Blob([/** @type {BlobPart} */ (bytes)]), file);
    await cache.put(this.address, new Response(form));
    for (const { url } of await cache.keys()) if (this.isOfOthers(url, hash)) await cache.delete(url);
  }

  /** A file that was needed later, beside the weights with this hash; null where it is not kept. @param {string} file @param {string} hash */
  async later(file, hash) {
    const bytes = await (await (await this.cache()).match(this.laterAddress(file, hash)))?.arrayBuffer();
    return bytes ? new Uint8Array(bytes) : null;
  }

  /** @param {ReadonlyMap<string, Uint8Array>} files @param {string} hash of the weights */
  async keepLater(files, hash) {
    const cache = await this.cache();
    for (const [file, bytes] of files)
      await cache.put(this.laterAddress(file, hash), new Response(/** @type {BlobPart} */ (bytes)));
  }

  /** Whether an entry belongs to weights with another hash. @param {string} url @param {string} hash */
  isOfOthers(url, hash) {
    const isOurs = this.folders.some((folder) => url.startsWith(folder));
    return isOurs && url.includes(WEIGHTS) && !url.endsWith(WEIGHTS + encodeURIComponent(hash));
  }

  /** @param {string} file @param {string} hash of the weights */
  laterAddress(file, hash) {
    return new URL(file, this.address).href + WEIGHTS + encodeURIComponent(hash);
  }

  /** @param {string} hash */
  weightsAddress(hash) {
    return this.data + WEIGHTS + encodeURIComponent(hash);
  }

  cache() {
    return globalThis.caches.open(this.name);
  }
}
