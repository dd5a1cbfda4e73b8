/** The memory of one stream: keys and values of fixed size, in memory that graphs write to in place. */

import { countBonuses } from './eviction.js';
import { BYTES } from './sessions.js';

/** @typedef {import('./description.js').DecoderDescription} DecoderDescription */
/** @typedef {import('./sessions.js').Memory} Memory */

export const MAX_CHUNK = 256; // tokens of a prompt that go through a graph at once

const FIRST_SLOTS = 512; // of a cache that grows

/** Slots of a cache in full: the window, and a chunk's rows behind it. @param {DecoderDescription} description */
export function mostSlots(description) {
  return description.keepWindowSize + MAX_CHUNK;
}

/**
 * Keys and values: [layers, 2 (key, value), heads, slots, channels] of the description's cache type. Where a backend
 * reads all slots at each step, a cache begins with few, and `State.reserve` doubles them.
 */
export class Cache {
  /**
   * @param {import('./sessions.js').Backend} backend @param {DecoderDescription} description @param {number} heads
   * @param {number} [tokens] that it must have room for
   */
  constructor(backend, description, heads, tokens = 0) {
    this.backend = backend;
    this.description = description;
    this.heads = heads;
    this.slots = mostSlots(description);
    if (backend.readsAllSlots) {
      const doubled = FIRST_SLOTS * 2 ** Math.max(0, Math.ceil(Math.log2(tokens / FIRST_SLOTS)));
      this.slots = Math.min(this.slots, doubled);
    }
    this.rowBytes = description.channels * BYTES[description.cacheType];
    this.memory = backend.allocate(description.numLayers * 2 * this.partBytes);
  }

  /** Bytes of the keys, or of the values, of a layer. */
  get partBytes() {
    return this.heads * this.slots * this.rowBytes;
  }

  /**
   * Where the row of a slot begins.
   * @param {number} layer
   * @param {number} part 0 key, 1 value
   * @param {number} head
   * @param {number} slot
   */
  offset(layer, part, head, slot) {
    return (((layer * 2 + part) * this.heads + head) * this.slots + slot) * this.rowBytes;
  }

  /**
   * The parts of the memory that a graph has as past and present.
   * @param {number} [links] presents before the last one, in a graph that has several of each
   * @returns {import('./sessions.js').Shared[]}
   */
  shared(links = 0) {
    const { numLayers, channels, cacheType } = this.description;
    const dims = [1, this.heads, this.slots, channels];
    return Array.from({ length: numLayers }, (_, layer) =>
      ['key', 'value'].map((part, i) => ({
        input: `past_key_values.${layer}.${part}`,
        output: `present.${layer}.${part}`,
        between: Array.from({ length: links }, (_, j) => `present.${layer}.${part}.${j}`),
        type: cacheType,
        dims,
        offset: this.offset(layer, i, 0, 0),
      })),
    ).flat();
  }

  /**
   * Rows of slots, each head's behind the one before: bytes of [layers, 2, heads, used, channels].
   * @param {number} used
   */
  rows(used) {
    const bytes = this.memory.bytes();
    const width = used * this.rowBytes;
    const rows = new Uint8Array(this.description.numLayers * 2 * this.heads * width);
    this.eachHead((at, index) => rows.set(bytes.subarray(at, at + width), index * width));
    return rows;
  }

  /** Take in what `rows` gave. @param {Uint8Array} rows */
  setRows(rows) {
    const bytes = this.memory.bytes();
    const width = rows.length / (this.description.numLayers * 2 * this.heads);
    this.eachHead((at, index) => bytes.set(rows.subarray(index * width, (index + 1) * width), at));
  }

  /**
   * Copy the used slots of another cache; each of its heads goes to as many of these.
   * @param {Cache} other
   * @param {number} used
   */
  copyFrom(other, used) {
    const [from, to] = [other.memory.bytes(), this.memory.bytes()];
    const group = this.heads / other.heads;
    this.eachHead((at, index) => {
      const start = Math.floor(index / group) * other.slots * other.rowBytes;
      to.set(from.subarray(start, start + used * this.rowBytes), at);
    });
  }

  /**
   * Copy the key and value of one slot to another, in one layer and head.
   * @param {number} lane
   * @param {number} to
   * @param {number} from
   */
  move(lane, to, from) {
    const bytes = this.memory.bytes();
    const [layer, head] = [Math.floor(lane / this.heads), lane % this.heads];
    for (const part of [0, 1]) {
      const [at, start] = [this.offset(layer, part, head, to), this.offset(layer, part, head, from)];
      bytes.copyWithin(at, start, start + this.rowBytes);
      this.memory.changed(at, this.rowBytes);
    }
  }

  /**
   * Precedence of the keys in some slots of a full window: [layers * heads * count]. 0 for all in a model without mask;
   * bonuses in tokens, where keys have any.
   * @param {number} first @param {number} count
   */
  precedenceOf(first, count) {
    const { numLayers, headDim, maskChannels, keepBonus } = this.description;
    const found = new Float32Array(numLayers * this.heads * count);
    if (maskChannels === 0) return found;
    const bytes = this.memory.bytes();
    const floats = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    for (let lane = 0, i = 0; lane < numLayers * this.heads; lane++) {
      const head = lane % this.heads;
      const channel = headDim + (head % maskChannels);
      let at = this.offset(Math.floor(lane / this.heads), 1, head, first) / 4 + channel;
      for (let n = 0; n < count; n++, at += this.description.channels) found[i++] = floats[at];
    }
    return keepBonus ? countBonuses(found, keepBonus) : found;
  }

  /** @param {(at: number, index: number) => void} visit the start of each layer's, part's and head's rows */
  eachHead(visit) {
    const count = this.description.numLayers * 2 * this.heads;
    for (let index = 0; index < count; index++) visit(index * this.slots * this.rowBytes, index);
  }
}
