/**
 * From logits to a token: small pure functions on Float32Array, in the order of Python's `runtime/sampling.py`.
 *
 * Repetition penalty, temperature, top-k, top-p, min-p. The last three return the indices that they leave. Sums of
 * float32 are numpy's, in its order, so that a drawn number falls between the same two tokens.
 */

const BLOCK = 256; // tokens whose weights are summed together before one is drawn
const FLOORS = [1e-1, 1e-2, 1e-3, 1e-4, 0]; // of the best weight: top-p looks at those above one, seldom at all
const PAIRWISE = 128; // numpy sums so many numbers in eight lanes, and halves longer rows
const { fround } = Math;

/**
 * Divide the positive and multiply the negative logits of the tokens by `penalty` (arXiv 1909.05858).
 * @param {Float32Array} logits [vocab] @param {Iterable<number>} tokenIds different ones @param {number} penalty
 */
export function applyRepetitionPenalty(logits, tokenIds, penalty) {
  const penalised = logits.slice();
  const factor = fround(penalty);
  for (const id of tokenIds) penalised[id] = logits[id] < 0 ? logits[id] * factor : logits[id] / factor;
  return penalised;
}

/** @param {Float32Array} logits [n] @param {number} temperature above 0 */
export function applyTemperature(logits, temperature) {
  const divisor = fround(temperature);
  return logits.map((logit) => logit / divisor);
}

/**
 * The k largest, and all that equal the smallest of them; 0 leaves all. Ascending indices.
 * @param {Float32Array} logits [n] @param {number} k
 */
export function topK(logits, k) {
  if (k === 0 || k >= logits.length) return allIndices(logits.length);
  const smallestLeft = largest(logits, k);
  return indicesWhere(logits, (logit) => logit >= smallestLeft);
}

/**
 * The k-th largest, by a heap of the k largest so far: a sort of 32,768 logits takes longer than a step.
 * @param {Float32Array} values [n] @param {number} k from 1 to n
 */
export function largest(values, k) {
  const heap = values.slice(0, k).sort(); // ascending, so each is at most its children 2 i + 1 and 2 i + 2
  for (let i = k; i < values.length; i++) {
    const value = values[i];
    if (!(value > heap[0])) continue;
    let at = 0; // the smallest goes, and smaller children move up
    for (let child = 1; child < k; child = 2 * at + 1) {
      if (child + 1 < k && heap[child + 1] < heap[child]) child++;
      if (heap[child] >= value) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = value;
  }
  return heap[0];
}

/**
 * The fewest best whose probabilities add up to p, at least one; 1 leaves all. Of equals the lower index comes first.
 * @param {Float32Array} logits [n] @param {number} p
 */
export function topP(logits, p) {
  if (p >= 1) return allIndices(logits.length);
  const all = weights(logits);
  const wanted = p * sum(all);
  let contenders = new Uint32Array(0);
  for (const floor of FLOORS) {
    contenders = indicesWhere(all, (weight) => weight >= fround(floor));
    if (sum(Float32Array.from(contenders, (i) => all[i])) >= wanted) break;
  }
  const bestFirst = contenders.sort((a, b) => logits[b] - logits[a] || a - b);
  let weightOfBetter = 0;
  let left = 0;
  for (; left < bestFirst.length && weightOfBetter < wanted; left++) weightOfBetter += all[bestFirst[left]];
  return bestFirst.slice(0, left).sort();
}

/**
 * Those with at least p times the probability of the best; 0 leaves all. Ascending indices.
 * @param {Float32Array} logits [n] @param {number} p
 */
export function minP(logits, p) {
  return indicesWhere(weights(logits), (weight) => weight >= fround(p));
}

/** Index of the largest, the lowest among equals. @param {Float32Array} logits */
export function greedy(logits) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  return best;
}

/**
 * Index drawn from softmax(logits) by one number of `random`; never one whose logit is -Infinity.
 * @param {Float32Array} logits [n] @param {() => number} random from 0 to below 1
 */
export function sample(logits, random) {
  const all = weights(logits);
  const blocks = new Float64Array(Math.ceil(all.length / BLOCK));
  for (let block = 0; block < blocks.length; block++) {
    const inside = all.subarray(block * BLOCK, (block + 1) * BLOCK);
    // numpy's reduceat takes the first number by itself, and adds the sum of the others
    blocks[block] = (block ? blocks[block - 1] : 0) + fround(inside[0] + sum(inside.subarray(1)));
  }
  const drawn = random() * blocks[blocks.length - 1];
  const block = firstAbove(blocks, drawn);
  const before = block ? blocks[block - 1] : 0;
  const inside = Float64Array.from(all.subarray(block * BLOCK, (block + 1) * BLOCK));
  for (let i = 1; i < inside.length; i++) inside[i] += inside[i - 1];
  return block * BLOCK + firstAbove(inside, drawn - before);
}

/**
 * The tokens that temperature, top-k, top-p and min-p leave to draw from: ascending ids and their scaled logits.
 * @param {Float32Array} logits [vocab]
 * @param {{temperature: number, topK: number, topP: number, minP: number}} options temperature above 0
 */
export function candidates(logits, options) {
  let left = applyTemperature(logits, options.temperature);
  /** @type {Uint32Array | null} */
  let ids = null;
  const keep = (/** @type {Uint32Array} */ chosen) => {
    const before = ids;
    ids = before === null ? chosen : chosen.map((i) => before[i]);
    left = Float32Array.from(chosen, (i) => left[i]);
  };
  if (options.topK > 0) keep(topK(left, options.topK));
  if (options.topP < 1) keep(topP(left, options.topP));
  if (options.minP > 0) keep(minP(left, options.minP));
  return { ids: ids ?? allIndices(left.length), logits: left };
}

/**
 * The sum of float32 numbers in float32, added in numpy's order (pairwise summation in eight lanes).
 * @param {Float32Array} values
 * @returns {number}
 */
export function sum(values) {
  const n = values.length;
  if (n > PAIRWISE) {
    const half = Math.floor(n / 2);
    const first = half - (half % 8);
    return fround(sum(values.subarray(0, first)) + sum(values.subarray(first)));
  }
  let total = 0;
  let i = 0;
  if (n >= 8) {
    const lanes = values.slice(0, 8);
    for (i = 8; i < n - (n % 8); i += 8) for (let lane = 0; lane < 8; lane++) lanes[lane] += values[i + lane];
    const pairs = [0, 2, 4, 6].map((lane) => fround(lanes[lane] + lanes[lane + 1]));
    total = fround(fround(pairs[0] + pairs[1]) + fround(pairs[2] + pairs[3]));
  }
  for (; i < n; i++) total = fround(total + values[i]);
  return total;
}

/** Probabilities up to their common factor, the largest 1. @param {Float32Array} logits @returns {Float32Array} */
function weights(logits) {
  const largest = logits.reduce((a, b) => (a > b ? a : b), -Infinity);
  return logits.map((logit) => Math.exp(fround(logit - largest)));
}

/**
 * The first index whose running sum is above `drawn`, or else the last one of any weight.
 * @param {Float64Array} cumulative @param {number} drawn
 */
function firstAbove(cumulative, drawn) {
  const last = cumulative.indexOf(cumulative[cumulative.length - 1]);
  const index = cumulative.findIndex((total) => total > drawn);
  return index < 0 ? last : Math.min(index, last);
}

/** @param {number} count */
function allIndices(count) {
  return Uint32Array.from({ length: count }, (_, i) => i);
}

/** @param {Float32Array} values @param {(value: number) => boolean} holds */
function indicesWhere(values, holds) {
  const found = new Uint32Array(values.length);
  let count = 0;
  for (let i = 0; i < values.length; i++) if (holds(values[i])) found[count++] = i;
  return found.slice(0, count);
}
