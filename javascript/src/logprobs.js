/** Log-probabilities of tokens, as the model has them before any option changes its logits: Python's `runtime/logprobs.py`. */

const { fround } = Math;

/**
 * A token of an answer, and those that the model held for the likeliest in its place. logprob: the natural logarithm of
 * its probability. best: pairs of a token id and its logarithm, the likeliest first, the lower id among equals.
 * @typedef {{tokenId: number, logprob: number, best: [number, number][]}} TokenLogprobs
 */

/**
 * @param {Float32Array} logits [vocab] @param {number} tokenId @param {number} count of the best
 * @returns {TokenLogprobs}
 */
export function tokenLogprobs(logits, tokenId, count) {
  const total = logTotal(logits);
  const best = bestFirst(logits, count).map((id) => /** @type {[number, number]} */ ([id, logits[id] - total]));
  return { tokenId, logprob: logits[tokenId] - total, best };
}

/** The logarithm of the sum of exp(logits). @param {Float32Array} logits [vocab] */
function logTotal(logits) {
  const largest = logits.reduce((a, b) => (a > b ? a : b), -Infinity);
  let sum = 0;
  for (const logit of logits) sum += fround(Math.exp(fround(logit - largest)));
  return largest + Math.log(sum);
}

/** Indices of the largest, the lower one first among equals. @param {Float32Array} logits [vocab] @param {number} count */
export function bestFirst(logits, count) {
  if (count === 0) return [];
  const least = logits.slice().sort()[Math.max(logits.length - count, 0)];
  const contenders = [];
  for (let id = 0; id < logits.length; id++) if (logits[id] >= least) contenders.push(id);
  return contenders.sort((a, b) => logits[b] - logits[a] || a - b).slice(0, count);
}
