/**
 * The adapters of a model by name, each a decoder of its own beside the base's: Python's `runtime/adapters.py`.
 *
 * Their graphs are opened once, when the first adapter is used. Another adapter binds other matrices to them.
 */

import { sha256 } from '@noble/hashes/sha2.js';

import { checkName, readAdapter } from './adapter.js';
import { ADAPTED_FILES, inAllPlaces, readAdaptedGraphs } from './adapter_graphs.js';
import { bytesAt } from './adapter_location.js';
import { Decoder } from './decoder.js';
import { DECODER_FILE } from './description.js';
import { OptionError, PackageError, shown } from './errors.js';
import { hexadecimal } from './folder_files.js';
import { Sessions, graphOf } from './sessions.js';

/** @typedef {import('./source.js').Source} Source */
/** @typedef {import('./sessions.js').Constants} Constants */
/** @typedef {import('./adapter_location.js').AdapterLocation} AdapterLocation */
/** @typedef {{sessions: Sessions, places: import('./adapter_graphs.js').Places, base: number}} Opened */

const FOLDER = 'adapters';
const ENDING = '.onnx_adapter';

export class Adapters {
  /** @param {Source} source @param {Decoder} base @param {readonly string[]} names of the folder's adapters */
  constructor(source, base, names) {
    this.source = source;
    this.base = base;
    this.names = new Set(names);
    /** @type {Map<string, Promise<Decoder>>} */
    this.decoders = new Map();
    /** @type {Promise<Opened> | null} */
    this.opened = null;
    /** @type {Constants[]} */
    this.constants = [];
  }

  /** Those of a folder. @param {Source} source @param {Decoder} base */
  static async of(source, base) {
    const files = await source.list(FOLDER, ENDING);
    return new Adapters(
      source,
      base,
      files.map((file) => file.slice(0, -ENDING.length)),
    );
  }

  /** A name that an adapter has; OptionError for any other. @param {unknown} name @returns {string} */
  known(name) {
    if (Array.isArray(name))
      throw new OptionError(`adapter is ${shown(name)}; it must be one name, as there is one prompt`);
    if (typeof name !== 'string')
      throw new OptionError(`adapter is ${shown(name)}; it must be the name of one, a text`);
    if (this.names.has(name)) return name;
    const names = [...this.names].join(', ') || 'none, as none was exported or added';
    throw new OptionError(`adapter is ${shown(name)}; it must be one of the model's: ${names}`);
  }

  /**
   * The decoder that computes with an adapter, '' the base's. PackageError where its file or the graphs for it are
   * missing, damaged, or of another base.
   * @param {string} name one that `known` has let through
   */
  async decoder(name) {
    this.base.backend.lifetime.check();
    return name === '' ? this.base : (this.decoders.get(name) ?? this.keeping(name, () => this.ofFolder(name)));
  }

  /**
   * Give the adapter of a file a name, and read it; OptionError where the name is taken or not allowed.
   * @param {string} name @param {AdapterLocation} location
   */
  async add(name, location) {
    checkName(name);
    if (this.names.has(name))
      throw new OptionError(`there is an adapter ${shown(name)} already; give the new one another name`);
    this.names.add(name);
    const file = location instanceof Uint8Array ? 'the file' : String(location);
    try {
      await this.keeping(name, async () => this.computing(name, file, await bytesAt(location)));
    } catch (error) {
      this.names.delete(name);
      throw error;
    }
  }

  /** @param {string} name @param {() => Promise<Decoder>} open which the end of the model waits for */
  async keeping(name, open) {
    const opening = this.base.backend.lifetime.use(open);
    this.decoders.set(name, opening);
    try {
      return await opening;
    } catch (error) {
      this.decoders.delete(name); // it may be there another time
      throw error;
    }
  }

  /** @param {string} name */
  async ofFolder(name) {
    const file = `${FOLDER}/${name}${ENDING}`;
    const bytes = await this.source.bytesLater(file);
    if (bytes === null) throw new PackageError(`${file} is missing; copy the folder again, or load the page again`);
    const decoder = await this.computing(name, file, bytes);
    await this.source.keepLater(new Map([[file, bytes]]));
    return decoder;
  }

  /** @param {string} name @param {string} file its name in messages @param {Uint8Array} bytes */
  async computing(name, file, bytes) {
    const { base, source } = this;
    const { sessions, places, base: number } = await this.graphs();
    const { arrays, sha256: own } = readAdapter(bytes, file, places, number);
    const constants = base.backend.constants(await inAllPlaces(arrays, places, source, base.backend.leastRank));
    this.constants.push(constants);
    const weightsSha256 = hexadecimal(sha256(new TextEncoder().encode(`${base.description.weightsSha256} ${own}`)));
    return new Decoder(base.backend, { ...base.description, weightsSha256, adapter: name }, sessions, constants);
  }

  graphs() {
    this.opened ??= this.open().catch((error) => {
      this.opened = null;
      throw error;
    });
    return this.opened;
  }

  /** @returns {Promise<Opened>} */
  async open() {
    const { base, source } = this;
    /** @type {Map<string, Uint8Array>} */
    const files = new Map();
    for (const file of Object.values(ADAPTED_FILES)) {
      const bytes = await source.bytesLater(file);
      if (bytes === null)
        throw new PackageError(`${source.name} has no ${file} for adapters; export it with --adapters NAME=DIR`);
      files.set(file, bytes);
    }
    const { graphs, ...rest } = readAdaptedGraphs(files, graphOf(base.sessions.graphs, DECODER_FILE));
    await source.keepLater(files);
    return { sessions: new Sessions(base.backend, graphs, ADAPTED_FILES), ...rest };
  }

  /** Give the memory of all back, within `Lifetime.end`. */
  async dispose() {
    for (const constants of this.constants.splice(0)) constants.dispose();
    const opened = await this.opened;
    await opened?.sessions.dispose();
  }
}
