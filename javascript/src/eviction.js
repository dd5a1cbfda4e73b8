/**
 * A full window: the keys it holds, which of them are evicted next, and the new keys that take their slots.
 *
 * The rule and its two halves are those of Python's `runtime/eviction.py`, which says how sinks, bonuses and safe recent
 * keys change it. Arrays are flat: head h of layer l is lane l * heads + h, with a row of numbers for each lane.
 */

const TIE = Math.fround(2 ** (-17 - 40)); // `doge_model.mask.TIE`; a graph computes precedence times 2^-40
const SCALE = 2 ** -40; // of the precedence that a graph computes
const INDEX_SPAN = 2 ** 20; // a sort key holds an index below this beside 32 bits
const { fround } = Math;

/**
 * keepSinks: slots, from the first on, whose keys never leave. keepBonus: the most tokens of a bonus; 0 where precedence
 * alone decides. keepRecent: the last tokens up to a query, whose keys are safe.
 * @typedef {{keepSinks: number, keepBonus: number, keepRecent: number}} Rule
 */

/**
 * The cached keys that a chunk of S tokens can evict, in the order of eviction; behind them, the safe ones that are the
 * next to compete with them, in the order of the stream. They are `count` of each lane. Their precedence is as the graph
 * compares it: with bonuses, their sums.
 * @typedef {{count: number, slots: Uint32Array, precedence: Float32Array, positions: Uint32Array}} Candidates
 */

/** The keys of a state, per lane; slot i of the cache holds the key at [lane * window + i]. */
export class FullWindow {
  /**
   * @param {Float32Array} precedence [lanes * window]; with bonuses, theirs in tokens
   * @param {Uint32Array} positions the same @param {number} lanes @param {Rule} rule
   */
  constructor(precedence, positions, lanes, rule) {
    this.precedence = precedence;
    this.positions = positions;
    this.lanes = lanes;
    this.window = precedence.length / lanes;
    this.rule = rule;
    this.sums = new Float32Array(rule.keepBonus ? this.window : 0); // of the lane that is looked at
  }

  copy() {
    return new FullWindow(this.precedence.slice(), this.positions.slice(), this.lanes, this.rule);
  }

  /**
   * The keys that a chunk of so many tokens can evict, whose first one has this position.
   * @param {number} tokens @param {number} position
   * @returns {Candidates}
   */
  candidates(tokens, position) {
    const { keepSinks, keepRecent } = this.rule;
    const competing = Math.min(tokens, this.window - keepSinks - keepRecent);
    const entering = Math.min(tokens, keepRecent);
    const count = competing + entering;
    const slots = new Uint32Array(this.lanes * count);
    const precedence = new Float32Array(this.lanes * count);
    for (let lane = 0; lane < this.lanes; lane++) {
      const compared = this.compared(lane, position);
      const own = slots.subarray(lane * count, (lane + 1) * count);
      if (competing === 1) own[0] = this.nextEvicted(lane, compared, position);
      else own.set(this.firstEvicted(lane, compared, competing, position));
      if (entering) this.findEntering(lane, own.subarray(competing), position);
      own.forEach((slot, i) => {
        precedence[lane * count + i] = compared[slot];
      });
    }
    const at = (/** @type {number} */ slot, /** @type {number} */ i) => Math.floor(i / count) * this.window + slot;
    return { count, slots, precedence, positions: slots.map((slot, i) => this.positions[at(slot, i)]) };
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
      if (tokens === 1) this.admitOne(move, lane, candidates, precedence[lane], position);
      else this.admitMany(move, lane, candidates, precedence.subarray(lane * tokens, (lane + 1) * tokens), position);
    }
  }

  /**
   * The precedence that orders a lane's keys: as it is, or the sums with bonuses, counted from a position, so that
   * float32 is exact. The next call may overwrite it.
   * @param {number} lane @param {number} position
   */
  compared(lane, position) {
    const first = lane * this.window;
    const own = this.precedence.subarray(first, first + this.window);
    if (!this.rule.keepBonus) return own;
    for (let i = 0; i < this.window; i++) this.sums[i] = own[i] + fround(this.positions[first + i] - position);
    return this.sums;
  }

  /**
   * The slot whose key is evicted first: the oldest of those that tie with the smallest.
   * @param {number} lane @param {Float32Array} compared @param {number} position
   */
  nextEvicted(lane, compared, position) {
    const ages = this.positions.subarray(lane * this.window, (lane + 1) * this.window);
    const { keepSinks, keepRecent } = this.rule;
    const end = keepRecent ? position - keepRecent : Infinity; // safe keys have positions from there on
    let least = Infinity;
    for (let i = keepSinks; i < this.window; i++) if (compared[i] < least && ages[i] < end) least = compared[i];
    const tied = fround(least + TIE);
    let oldest = keepSinks;
    let age = end;
    for (let i = keepSinks; i < this.window; i++)
      if (compared[i] <= tied && ages[i] < age) [oldest, age] = [i, ages[i]];
    return oldest;
  }

  /**
   * Slots of so many keys that are evicted first, in that order.
   * @param {number} lane @param {Float32Array} compared @param {number} count @param {number} position
   */
  firstEvicted(lane, compared, count, position) {
    const { keepSinks, keepRecent } = this.rule;
    const ages = this.positions.subarray(lane * this.window + keepSinks, (lane + 1) * this.window);
    const keys = compared.slice(keepSinks);
    if (keepRecent) ages.forEach((age, i) => age >= position - keepRecent && (keys[i] = Infinity));
    return evictionOrder(keys, ages)
      .subarray(0, count)
      .map((index) => index + keepSinks);
  }

  /**
   * Find the slots of the oldest safe keys, the oldest first.
   * @param {number} lane @param {Uint32Array} slots is filled @param {number} position
   */
  findEntering(lane, slots, position) {
    const [start, oldest] = [lane * this.window, position - this.rule.keepRecent];
    for (let i = 0; i < this.window; i++) {
      const age = this.positions[start + i] - oldest;
      if (age >= 0 && age < slots.length) slots[age] = i;
    }
  }

  /**
   * One new key: it is kept where it outranks the candidate. Where recent keys are safe it stays, and takes the slot of
   * the candidate or of the key that competes with that.
   * @param {(lane: number, to: number, from: number) => void} move @param {number} lane
   * @param {Candidates} candidates @param {number} precedence with bonuses, its sum too @param {number} position
   */
  admitOne(move, lane, { count, slots, precedence: theirs }, precedence, position) {
    const first = lane * count;
    const competitor = this.rule.keepRecent ? theirs[first + 1] : precedence;
    const outranks = competitor >= fround(theirs[first] - TIE);
    if (!outranks && !this.rule.keepRecent) return;
    this.put(move, lane, slots[outranks ? first : first + 1], 0, precedence, position);
  }

  /**
   * Several new keys: order those that compete together with the candidates. The others are safe.
   * @param {(lane: number, to: number, from: number) => void} move @param {number} lane
   * @param {Candidates} candidates @param {Float32Array} precedence @param {number} position
   */
  admitMany(move, lane, { count, slots, precedence: theirs, positions }, precedence, position) {
    const tokens = precedence.length;
    const entering = tokens - Math.min(tokens, this.rule.keepRecent);
    const both = new Float32Array(count + entering);
    both.set(theirs.subarray(lane * count, (lane + 1) * count));
    for (let i = 0; i < entering; i++) both[count + i] = precedence[i] + (this.rule.keepBonus ? i : 0);
    const ages = Uint32Array.from(both, (_, i) => (i < count ? positions[lane * count + i] : position + i - count));
    const gone = new Uint8Array(count + tokens);
    for (const index of evictionOrder(both, ages).subarray(0, tokens)) gone[index] = 1;
    let free = 0; // the candidates that go, in their order
    for (let i = 0; i < tokens; i++) {
      if (gone[count + i]) continue;
      while (!gone[free]) free++;
      this.put(move, lane, slots[lane * count + free++], i, precedence[i], position + i);
    }
  }

  /**
   * Put a new key in a slot. @param {(lane: number, to: number, from: number) => void} move @param {number} lane
   * @param {number} slot @param {number} index of the key among the new ones @param {number} precedence
   * @param {number} position
   */
  put(move, lane, slot, index, precedence, position) {
    move(lane, slot, this.window + index);
    this.precedence[lane * this.window + slot] = precedence;
    this.positions[lane * this.window + slot] = position;
  }
}

/**
 * Put in the place of a graph's precedence the bonus in tokens that it stands for: whole, halves to even.
 * @param {Float32Array} precedence @param {number} keepBonus
 */
export function countBonuses(precedence, keepBonus) {
  for (let i = 0; i < precedence.length; i++) {
    const tokens = Math.min(Math.max(precedence[i] / SCALE, 0), keepBonus);
    const below = Math.floor(tokens);
    const isAbove = tokens - below === 0.5 ? below % 2 === 1 : tokens - below > 0.5;
    precedence[i] = below + Number(isAbove);
  }
  return precedence;
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
