/** Where the files of an exported folder come from: a local folder in Node here, the web in `web_source.js`. */

import { DATA_FILE } from './description.js';
import { OptionError, PackageError, oneLine, shown } from './errors.js';

/**
 * @typedef {object} Source
 * @property {string} name of the folder
 * @property {(file: string) => Promise<Uint8Array>} bytes PackageError where it is missing
 * @property {(file: string) => Promise<string | null>} text null where it is missing
 * @property {(file: string) => Promise<number | null>} size in bytes, null where it is missing
 * @property {(folder: string, ending: string) => Promise<readonly string[]>} list names of the files in a folder within it
 * @property {(file: string) => Promise<Uint8Array | null>} bytesLater of a file that only some calls need, null where it is
 * missing
 * @property {(files: ReadonlyMap<string, Uint8Array>) => Promise<void>} keepLater those that were read so and are right
 * @property {(expected: ExpectedData) => void} expect to be called before the data file is read
 * @property {() => Promise<DataPages>} data that of the graphs; PackageError where it is another
 * @property {() => Promise<boolean>} goOffline read a copy alone from now on; false where there is none
 * @property {() => Promise<void>} keep called when the folder is open
 * @property {string | null} unkept why the files are not kept for offline use
 */

/**
 * The data file that belongs to the graphs. hash: its name. isSure: whether `check` can tell it from others.
 * @typedef {{hash: string, isSure: boolean, check(data: DataPages): Promise<void>}} ExpectedData
 */

/**
 * The size of the data file, and a way to read parts of it.
 * @typedef {{size: number, page(from: number, to: number): Promise<Uint8Array>}} DataPages
 */

/** @typedef {(progress: {file: string, loaded: number, total: number}) => void} OnProgress */

export const TEMPLATES = 'additional_chat_templates';
export const REPORT_FILE = 'export_report.json';
const HUB_ID = /^[A-Za-z0-9][\w.-]*\/[\w.-]+$/;

/** @param {string} what */
export const missing = (what) =>
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
    /** @type {string | null} */
    this.unkept = null; // it lies on disk
    /** @type {ExpectedData | null} */
    this.expected = null;
  }

  /** @param {ExpectedData} expected */
  expect(expected) {
    this.expected = expected;
  }

  /** @param {string} folder a path, or a file: URL */
  static async at(folder) {
    const [fs, path, url] = await Promise.all([
      // which bundlers leave alone
      import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:fs/promises'),
      import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:path'),
      import(/* webpackIgnore: true */ /* @vite-ignore */ 'node:url'),
    ]);
    const source = new FolderSource(folder.startsWith('file:') ? pathOf(folder, url) : folder, { fs, path });
    if (!(await fs.stat(source.folder).catch(() => null))?.isDirectory()) {
      const download = HUB_ID.test(folder)
        ? `, or download a model of the hub first: hf download ${folder} --local-dir FOLDER`
        : '';
      throw new PackageError(
        `there is no folder ${JSON.stringify(source.folder)}; give one that doge-export wrote${download}`,
      );
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
    if (file === DATA_FILE) await this.data(); // the check
    const read = await this.found(file, this.fs.readFile(this.pathOf(file)));
    return read && new Uint8Array(read.buffer, read.byteOffset, read.byteLength); // slice() of a Buffer does not copy
  }

  /** @param {string} file */
  async size(file) {
    return (await this.found(file, this.fs.stat(this.pathOf(file))))?.size ?? null;
  }

  /** @param {string} folder @param {string} ending */
  async list(folder, ending) {
    const names = (await this.found(folder, this.fs.readdir(this.pathOf(folder)))) ?? [];
    return names.filter((name) => name.endsWith(ending)).sort();
  }

  /** @param {string} file */
  async bytesLater(file) {
    return this.read(file);
  }

  async keepLater() {}

  async goOffline() {
    return false;
  }

  async keep() {}

  async data() {
    const size = await this.size(DATA_FILE);
    if (size === null) throw missing(this.pathOf(DATA_FILE));
    const pages = { size, page: (/** @type {number} */ from, /** @type {number} */ to) => this.page(from, to) };
    await this.expected?.check(pages);
    return pages;
  }

  /** @param {number} from @param {number} to */
  async page(from, to) {
    const file = await this.found(DATA_FILE, this.fs.open(this.pathOf(DATA_FILE)));
    if (!file) throw missing(this.pathOf(DATA_FILE));
    try {
      const read = await this.found(DATA_FILE, file.read(new Uint8Array(to - from), 0, to - from, from));
      return read?.buffer ?? new Uint8Array(0);
    } finally {
      await file.close();
    }
  }

  /** Null for a file that is missing; PackageError for one that cannot be read. @template T @param {string} file @param {Promise<T>} promise */
  async found(file, promise) {
    try {
      return await promise;
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes(String(/** @type {NodeJS.ErrnoException} */ (error).code))) return null;
      throw new PackageError(`${this.pathOf(file)} cannot be read (${oneLine(error)})`);
    }
  }
}

/** The path of a file: URL. @param {string} text @param {typeof import('node:url')} url */
function pathOf(text, url) {
  try {
    return url.fileURLToPath(text);
  } catch (error) {
    throw new OptionError(`the location is ${shown(text)}; it must be a URL, or in Node a path (${oneLine(error)})`);
  }
}

/** Bytes in one piece; the parts are given up. @param {Uint8Array[]} parts @param {number} length @param {string} name */
export function joined(parts, length, name) {
  let whole;
  try {
    whole = new Uint8Array(length);
  } catch (error) {
    throw new PackageError(`${name} does not fit into memory (${oneLine(error)}); take a smaller model`);
  }
  let at = 0;
  for (let part = parts.shift(); part; part = parts.shift()) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {Uint8Array} bytes @param {string} file */
export function asText(bytes, file) {
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
