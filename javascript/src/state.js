/** A stream of tokens: its position, the keys and values that are kept of it, and the way back. */

import { Cache, MAX_CHUNK, mostSlots } from './cache.js';
import { OptionError, RewindError, StateError, shown } from './errors.js';
import { FullWindow, countBonuses } from './eviction.js';
import { SeenTokens } from './seen_tokens.js';
import { readStateFile, writeStateFile } from './state_file.js';

/** @typedef {import('./description.js').DecoderDescription} DecoderDescription */
/** @typedef {import('./sessions.js').Backend} Backend */
/** @typedef {import('./sessions.js').Binding} Binding */

// tokens of a chunk once keys are evicted, as in Python
const FULL_WINDOW_CHUNK = 128;

/**
 * One stream. It holds memory of constant size, which `dispose` gives back at once; else the garbage collector does.
 * `metadata` is text by name that `save` writes and loading brings back.
 */
export class State {
  /** @param {Backend} backend @param {DecoderDescription} description @param {Cache} [cache] */
  constructor(backend, description, cache) {
    this.backend = backend;
    this.description = description;
    this.cache = cache ?? new Cache(backend, description, description.numKvHeads);
    this.slots = mostSlots(description);
    const separate = description.numLayers * description.numRecurrentHeads * this.slots;
    /** Of the keys in slots, [layers * recurrent heads * slots]; null where the cache holds it. */
    this.precedence = description.separatePrecedence ? new Float32Array(separate) : null;
    /** @type {FullWindow | null} */
    this.window = null;
    this.position = 0;
    /** @type {{position: number, token: number | null}} */
    this.unfed = { position: 0, token: null };
    this.seen = new SeenTokens(description.vocabSize);
    /** @type {Record<string, string>} */
    this.metadata = {};
    /** @type {Map<string, Binding>} steps that are bound to the cache */
    this.bindings = new Map();
    this.inUse = false;
    this.disposed = false;
  }

  /** Bytes the state takes at most, however long the stream gets: cache, order of the keys, seen tokens. */
  get nbytes() {
    const d = this.description;
    const cache = d.numLayers * 2 * d.numRecurrentHeads * this.slots * this.cache.rowBytes;
    const order = d.numLayers * d.numRecurrentHeads * d.keepWindowSize * 8;
    return cache + order + this.seen.first.byteLength + (this.precedence?.byteLength ?? 0);
  }

  /** Whether the stream is longer than the window, so that keys are evicted and `truncate` has no way back. */
  get overflowed() {
    return this.window !== null;
  }

  /** The token that comes next in the stream but is not fed yet: the last one of an answer. */
  get unfedToken() {
    return this.unfed.position === this.position ? this.unfed.token : null;
  }

  set unfedToken(token) {
    this.unfed = { position: this.position, token };
  }

  /** The different tokens fed so far, those of evicted keys included, in ascending order. */
  seenTokens() {
    return this.seen.before(this.position);
  }

  /** An independent state at the same position: the way to branch, or to come back. */
  copy() {
    this.checkFree();
    const used = Math.min(this.position, this.description.keepWindowSize);
    const other = new State(
      this.backend,
      this.description,
      new Cache(this.backend, this.description, this.cache.heads, used),
    );
    other.cache.copyFrom(this.cache, used);
    if (this.precedence) other.precedence = this.precedence.slice();
    other.window = this.window?.copy() ?? null;
    other.position = this.position;
    other.unfed = { ...this.unfed };
    other.seen = this.seen.upTo(this.position);
    other.metadata = { ...this.metadata };
    return other;
  }

  /** Forget every token from `position` on, an unfed one included. @param {number} position */
  truncate(position) {
    this.checkFree();
    if (!Number.isInteger(position))
      throw new OptionError(`position is ${shown(position)}; it must be a whole number from 0 to ${this.position}`);
    if (position < 0 || position > this.position) {
      throw new RewindError(`cannot go back to position ${position}: the state is at ${this.position}`);
    }
    if (position < this.position && this.overflowed) {
      throw new RewindError(
        `cannot go back to position ${position}: the window of ${this.description.keepWindowSize} tokens has ` +
          'overflowed; return to a copy() of the state',
      );
    }
    this.unfed = { position, token: null };
    this.seen = this.seen.upTo(position);
    this.position = position;
  }

  /** The bytes of a state file, which Python's `load_state` reads too. */
  save() {
    this.checkFree();
    const { description: d, position, window } = this;
    const used = Math.min(position, d.keepWindowSize);
    const seenTokens = this.seenTokens();
    return writeStateFile(d, {
      position,
      unfedToken: this.unfedToken,
      metadata: this.metadata,
      heads: this.cache.heads,
      cache: this.cache.rows(used),
      precedence: this.precedence && (window?.precedence ?? slotsOf(this.precedence, this.slots, used)),
      keyPositions: window?.positions ?? null,
      seenTokens,
      firstPositions: seenTokens.map((id) => this.seen.first[id]),
    });
  }

  /**
   * The state in the bytes of a file, which goes on as the saved one would.
   * @param {Uint8Array} bytes @param {Backend} backend @param {DecoderDescription} description
   */
  static load(bytes, backend, description) {
    const file = readStateFile(bytes, description);
    const used = Math.min(file.position, description.keepWindowSize);
    const state = new State(backend, description, new Cache(backend, description, file.heads, used));
    state.cache.setRows(file.cache);
    if (state.precedence && file.precedence) spread(file.precedence, used, state.precedence, state.slots);
    if (file.keyPositions) state.fillWindow(file.keyPositions);
    state.position = file.position;
    state.unfed = { position: file.position, token: file.unfedToken };
    file.seenTokens.forEach((id, i) => {
      state.seen.first[id] = file.firstPositions[i];
    });
    state.metadata = file.metadata;
    return state;
  }

  /** Tokens that the next chunk may have: a chunk must not cross the moment the window fills. */
  roomForChunk() {
    const beforeFull = this.description.keepWindowSize - this.position;
    const most = beforeFull > 0 ? Math.min(MAX_CHUNK, beforeFull) : FULL_WINDOW_CHUNK;
    return Math.min(most, this.backend.longestChunk);
  }

  /** Make room for tokens that are fed next. @param {number} tokens */
  reserve(tokens) {
    const { description: d, cache } = this;
    const used = Math.min(this.position, d.keepWindowSize);
    if (used + tokens > cache.slots) this.replaceCache(new Cache(this.backend, d, cache.heads, used + tokens));
  }

  /** @param {Cache} cache another one for the same keys */
  replaceCache(cache) {
    const before = this.cache;
    cache.copyFrom(before, Math.min(this.position, this.description.keepWindowSize));
    this.cache = cache;
    this.releaseBindings();
    before.memory.dispose();
  }

  /** The bookkeeping of a window that is full; made, with the cache it needs, for the first token beyond it. */
  fullWindow() {
    if (this.window) return this.window;
    const { description: d, cache } = this;
    if (cache.heads !== d.numRecurrentHeads) {
      // in full: the rows of every chunk to come stand behind the window
      this.replaceCache(new Cache(this.backend, d, d.numRecurrentHeads, this.slots));
    }
    const lanes = d.numLayers * d.numRecurrentHeads;
    return this.fillWindow(Uint32Array.from({ length: lanes * d.keepWindowSize }, (_, i) => i % d.keepWindowSize));
  }

  /** @param {Uint32Array} positions of the keys */
  fillWindow(positions) {
    const { description: d } = this;
    this.window = new FullWindow(
      this.precedenceOf(0, d.keepWindowSize),
      positions,
      d.numLayers * d.numRecurrentHeads,
      d,
    );
    return this.window;
  }

  /** Of the keys in some slots of a full window. @param {number} first @param {number} count */
  precedenceOf(first, count) {
    return this.precedence ? slotsOf(this.precedence, this.slots, count, first) : this.cache.precedenceOf(first, count);
  }

  /**
   * Keep a graph's word on the rows it has just written, a layer's [S, heads] at a time.
   * @param {(layer: number) => Float32Array} read
   */
  takePrecedence(read) {
    const { precedence, description: d, slots } = this;
    if (!precedence) return;
    const start = this.overflowed ? d.keepWindowSize : this.position;
    for (let layer = 0; layer < d.numLayers; layer++) {
      const heads = d.numRecurrentHeads;
      const rows = d.keepBonus ? countBonuses(read(layer).slice(), d.keepBonus) : read(layer);
      rows.forEach((value, i) => {
        precedence[(layer * heads + (i % heads)) * slots + start + Math.floor(i / heads)] = value;
      });
    }
  }

  /**
   * Note that a graph has written the rows of some tokens: the position moves on.
   * @param {ArrayLike<number>} tokenIds
   * @param {import('./eviction.js').Candidates | null} candidates those of a full window, behind which the rows stand
   */
  takeIn(tokenIds, candidates) {
    if (candidates) {
      const added = this.precedenceOf(this.description.keepWindowSize, tokenIds.length);
      this.fullWindow().admit((lane, to, from) => this.cache.move(lane, to, from), candidates, added, this.position);
    }
    this.seen.note(tokenIds, this.position);
    this.position += tokenIds.length;
  }

  /** Give the memory back; the state cannot be used any more. Where it is given back already, nothing happens. */
  dispose() {
    if (this.disposed) return;
    this.checkUnused();
    this.disposed = true;
    this.releaseBindings();
    this.cache.memory.dispose();
  }

  /** StateError while another call uses the state, or after its end or that of its model. */
  checkFree() {
    this.backend.lifetime.check();
    if (this.disposed) throw new StateError('the state was disposed of; copy it first where it is still needed');
    this.checkUnused();
  }

  checkUnused() {
    if (this.inUse) throw new StateError('the state is in use by another call; give each call a copy() of its own');
  }

  releaseBindings() {
    for (const binding of this.bindings.values()) binding.dispose();
    this.bindings.clear();
  }
}

/** Columns of rows. @param {Float32Array} rows @param {number} width @param {number} count @param {number} [first] */
function slotsOf(rows, width, count, first = 0) {
  const found = new Float32Array((rows.length / width) * count);
  for (let row = 0; row < rows.length / width; row++) {
    found.set(rows.subarray(row * width + first, row * width + first + count), row * count);
  }
  return found;
}

/** The inverse. @param {Float32Array} columns @param {number} count @param {Float32Array} rows @param {number} width */
function spread(columns, count, rows, width) {
  for (let row = 0; row < rows.length / width; row++)
    rows.set(columns.subarray(row * count, (row + 1) * count), row * width);
}
