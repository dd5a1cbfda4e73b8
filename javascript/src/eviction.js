/**
 * A full window: the keys it holds, which of them are evicted next, and the new keys that take their slots.
 *
 * The rule and its two halves are those of Python's `runtime/eviction.py`. Arrays are flat: head h of layer l is lane
 * l * heads + h, with a row of numbers for each lane.
 */

const TIE = Math.fround(2 ** (-17 - 40)); // `doge_model.mask.TIE`; a graph computes precedence times 2^-40
const INDEX_SPAN = 2 ** 20; // a sort key holds an index below this beside 32 bits
const { fround } = Math;

/**
 * The cached keys that a chunk of S tokens can evict, R of each lane in the order of eviction.
 * @typedef {{count: number, slots: Uint32Array, precedence: Float32Array, positions: Uint32Array}} Candidates
 */

/** The keys of a state, per lane; slot i of the cache holds the key at [lane * window + i]. */
export class FullWindow {
  /**
   * @param {Float32Array} precedence [lanes * window] @param {Uint32Array} positions the same
   * @param {number} lanes @param {number} keepSinks slots, from the first on, whose keys never leave
   */
  constructor(precedence, positions, lanes, keepSinks) {
    this.precedence = precedence;
    this.positions = positions;
    this.lanes = lanes;
    this.window = precedence.length / lanes;
    this.sinks = keepSinks;
  }

  copy() {
    return new FullWindow(this.precedence.slice(), this.positions.slice(), this.lanes, this.sinks);
  }

  /** The keys that a chunk of so many tokens can evict. @param {number} tokens @returns {Candidates} */
  candidates(tokens) {
    const count = Math.min(tokens, this.window - this.sinks);
    const slots = new Uint32Array(this.lanes * count);
    for (let lane = 0; lane < this.lanes; lane++) {
      if (count === 1) slots[lane] = this.nextEvicted(lane);
      else slots.set(this.firstEvicted(lane, count), lane * count);
    }
    const at = slots.map((slot, i) => Math.floor(i / count) * this.window + slot);
    return {
      count,
      slots,
      precedence: Float32Array.from(at, (i) => this.precedence[i]),
      positions: at.map((i) => this.positions[i]),
    };
  }

  /**
   * Keep those of the candidates and new keys that are evicted last; new ones take the slots of evicted ones.
   * @param {(lane: number, to: number, from: number) => void} move copies a lane's key and value between slots
   * @param {Candidates} candidates
   * @param {Float32Array} precedence of the new keys, [lanes * S] @param {number} position of the first of them
   */
  admit(move, candidates, precedence, position) {
    const tokens = precedence.length / this.lanes;
    for (let lane = 0; lane < this.lanes; lane++) {
      if (tokens === 1) this.admitOne(move, lane, candidates.slots[lane], precedence[lane], position);
      else this.admitMany(move, lane, candidates, precedence.subarray(lane * tokens, (lane + 1) * tokens), position);
    }
  }

  /** The slot whose key is evicted first: the oldest of those that tie with the smallest. @param {number} lane */
  nextEvicted(lane) {
    const first = lane * this.window;
    const end = first + this.window;
    let least = Infinity;
    for (let i = first + this.sinks; i < end; i++) if (this.precedence[i] < least) least = this.precedence[i];
    const tied = fround(least + TIE);
    let oldest = first + this.sinks;
    let age = Infinity;
    for (let i = first + this.sinks; i < end; i++) {
      if (this.precedence[i] <= tied && this.positions[i] < age) [oldest, age] = [i, this.positions[i]];
    }
    return oldest - first;
  }

  /** @param {number} lane @param {number} count */
  firstEvicted(lane, count) {
    const [first, end] = [lane * this.window + this.sinks, (lane + 1) * this.window];
    const order = evictionOrder(this.precedence.subarray(first, end), this.positions.subarray(first, end));
    return order.subarray(0, count).map((index) => index + this.sinks);
  }

  /**
   * One new key: it is kept where it outranks the candidate.
   * @param {(lane: number, to: number, from: number) => void} move
   * @param {number} lane @param {number} slot @param {number} precedence @param {number} position
   */
  admitOne(move, lane, slot, precedence, position) {
    const at = lane * this.window + slot;
    if (!(precedence >= fround(this.precedence[at] - TIE))) return;
    move(lane, slot, this.window);
    this.precedence[at] = precedence;
    this.positions[at] = position;
  }

  /**
   * Several new keys: order them together with the candidates.
   * @param {(lane: number, to: number, from: number) => void} move @param {number} lane
   * @param {Candidates} candidates @param {Float32Array} precedence @param {number} position
   */
  admitMany(move, lane, { count, slots, precedence: theirs, positions }, precedence, position) {
    const both = new Float32Array(count + precedence.length);
    both.set(theirs.subarray(lane * count, (lane + 1) * count));
    both.set(precedence, count);
    const ages = Uint32Array.from(both, (_, i) => (i < count ? positions[lane * count + i] : position + i - count));
    const kept = new Uint8Array(both.length);
    for (const index of evictionOrder(both, ages).subarray(precedence.length)) kept[index] = 1;
    let free = 0; // the candidates that go, in their order
    for (let i = 0; i < precedence.length; i++) {
      if (!kept[count + i]) continue;
      while (kept[free]) free++;
      const slot = slots[lane * count + free++];
      move(lane, slot, this.window + i);
      this.precedence[lane * this.window + slot] = precedence[i];
      this.positions[lane * this.window + slot] = position + i;
    }
  }
}

/**
 * Indices in the order of eviction: the smallest first, the oldest of equals. Neighbours closer than TIE are equal.
 * @param {Float32Array} precedence @param {Uint32Array} positions
 */
export function evictionOrder(precedence, positions) {
  const order = sortedIndices(Array.from(precedence, ordered), allIndices(precedence.length));
  for (let start = 0, end = 1; start < order.length; start = end++) {
    const near = (/** @type {number} */ i) => fround(precedence[order[i]] - precedence[order[i - 1]]) <= TIE;
    while (end < order.length && near(end)) end++;
    if (end - start < 2) continue;
    const run = order.slice(start, end);
    order.set(
      sortedIndices(
        Array.from(run, (index) => positions[index]),
        run,
      ),
      start,
    );
  }
  return order;
}

/**
 * Indices in the order of their keys, whole numbers of 32 bits; a float64 holds both.
 * @param {readonly number[]} keys @param {Uint32Array} indices
 */
function sortedIndices(keys, indices) {
  const packed = Float64Array.from(keys, (key, i) => key * INDEX_SPAN + indices[i]).sort();
  return Uint32Array.from(packed, (each) => each % INDEX_SPAN);
}

const bits = new DataView(new ArrayBuffer(4));

/** A whole number of 32 bits that grows with a float32. @param {number} value */
function ordered(value) {
  bits.setFloat32(0, value === 0 ? 0 : value); // -0 equals 0
  const pattern = bits.getUint32(0);
  return pattern & 0x80000000 ? 0xffffffff - pattern : pattern + 0x80000000;
}

/** @param {number} count */
function allIndices(count) {
  return Uint32Array.from({ length: count }, (_, i) => i);
}
