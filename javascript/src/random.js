/**
 * numpy's `default_rng(seed)`: SeedSequence and PCG64, so that a seed draws here the numbers that it draws in Python.
 * Sources: numpy/random/bit_generator.pyx and numpy/random/src/pcg64/pcg64.h.
 */

const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;
const PCG_MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;
const POOL_SIZE = 4;

/** PCG64 with XSL-RR output. */
export class Pcg64 {
  /** @param {bigint} seed at least 0 */
  constructor(seed) {
    const words = stateWords(wordsOf(seed), 4);
    const [initialState, sequence] = [(words[0] << 64n) | words[1], (words[2] << 64n) | words[3]];
    this.increment = ((sequence << 1n) | 1n) & MASK_128;
    this.state = this.increment; // a step from 0
    this.state = (this.state + initialState) & MASK_128;
    this.step();
  }

  step() {
    this.state = (this.state * PCG_MULTIPLIER + this.increment) & MASK_128;
  }

  /** 64 random bits. */
  next64() {
    this.step();
    const mixed = ((this.state >> 64n) ^ this.state) & MASK_64;
    const turn = this.state >> 122n;
    return ((mixed >> turn) | (mixed << (64n - turn))) & MASK_64;
  }

  /** A number from 0 to below 1, of 53 bits. */
  random() {
    return Number(this.next64() >> 11n) * 2 ** -53;
  }
}

/** A seed of fresh entropy. */
export function freshSeed() {
  return globalThis.crypto.getRandomValues(new BigUint64Array(2)).reduce((seed, word) => (seed << 64n) | word, 0n);
}

/** @param {bigint} seed @returns {number[]} its 32-bit words, the lowest first */
function wordsOf(seed) {
  const words = [Number(seed & 0xffffffffn)];
  for (let rest = seed >> 32n; rest > 0n; rest >>= 32n) words.push(Number(rest & 0xffffffffn));
  return words;
}

/** A hash whose constant moves on with every use. @param {number} constant @param {number} multiplier */
function hasher(constant, multiplier) {
  return (/** @type {number} */ value) => {
    value ^= constant;
    constant = Math.imul(constant, multiplier);
    value = Math.imul(value, constant);
    return (value ^ (value >>> 16)) >>> 0;
  };
}

/** @param {number} x @param {number} y */
function mix(x, y) {
  const mixed = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/**
 * numpy's `SeedSequence(entropy).generate_state(count, uint64)`.
 * @param {number[]} entropy @param {number} count
 */
function stateWords(entropy, count) {
  const hash = hasher(0x43b0d7e5, 0x931e8875);
  const pool = Array.from({ length: POOL_SIZE }, (_, i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < POOL_SIZE; from++) {
    for (let to = 0; to < POOL_SIZE; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  for (const word of entropy.slice(POOL_SIZE)) {
    for (let to = 0; to < POOL_SIZE; to++) pool[to] = mix(pool[to], hash(word));
  }
  const spread = hasher(0x8b51f9dd, 0x58f38ded);
  const words = Array.from({ length: 2 * count }, (_, i) => BigInt(spread(pool[i % POOL_SIZE])));
  return Array.from({ length: count }, (_, i) => words[2 * i] | (words[2 * i + 1] << 32n));
}
