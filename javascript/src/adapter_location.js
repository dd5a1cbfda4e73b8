/** The file of an adapter that a program adds: at a path, at a URL, or in memory. */

import { isNode } from './environment.js';
import { OptionError, PackageError, shown } from './errors.js';
import { FolderSource } from './source.js';
import { WebSource } from './web_source.js';

/** A path in Node, a URL anywhere, or the bytes of the file. @typedef {string | URL | Uint8Array} AdapterLocation */

/** PackageError where it is missing or cannot be read. @param {AdapterLocation} location @returns {Promise<Uint8Array>} */
export async function bytesAt(location) {
  if (location instanceof Uint8Array) return location;
  if (typeof location !== 'string' && !(location instanceof URL))
    throw new OptionError(`the adapter's location is ${shown(location)}; it must be a path, a URL or a Uint8Array`);
  const text = String(location);
  const bytes = isNode() && !/^https?:/.test(text) ? await onDisk(text) : await onTheWeb(text);
  if (bytes === null) throw new PackageError(`${text} is missing; give an adapter file that doge-export wrote`);
  return bytes;
}

/** @param {string} text a path, or a file: URL */
async function onDisk(text) {
  const [path, url] = await Promise.all([
    import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:path'),
    import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:url'),
  ]);
  const file = text.startsWith('file:') ? url.fileURLToPath(text) : text;
  return (await FolderSource.at(path.dirname(file))).read(path.basename(file));
}

/** @param {string} text */
async function onTheWeb(text) {
  const base = globalThis.location?.href;
  if (!URL.canParse(text, base))
    throw new OptionError(`the adapter's location is ${shown(text)}; it must be a URL, or in Node a path`);
  const url = new URL(text, base);
  const folder = new URL('./', url);
  folder.search = url.search;
  const source = new WebSource(folder, { cache: null, onProgress() {}, signal: undefined });
  return source.read(url.pathname.slice(folder.pathname.length));
}
