/** Round in a graph for WebGPU, which has no kernel for it: a step would wait for the processor in each layer. */

import { floats, node, readModel, writeModel } from './onnx_graph.js';

/** @type {Record<string, number>} */
const NUMBERS = { 'round.0': 0, 'round.half': 0.5, 'round.1': 1, 'round.one_and_half': 1.5, 'round.2': 2 };

/**
 * The graph with nodes that WebGPU has in place of each Round. They compute it exactly, halves to even.
 * @param {Uint8Array} bytes @param {string} file
 */
export function withoutRound(bytes, file) {
  const model = readModel(bytes, file);
  if (!model.nodes.some(({ opType }) => opType === 'Round')) return bytes;
  const nodes = model.nodes.flatMap((each) => (each.opType === 'Round' ? rounded(each) : [each.bytes]));
  const constants = Object.entries(NUMBERS).map(([name, value]) => floats(name, [], Float32Array.of(value)));
  return writeModel(model, nodes, [...model.initializers.map((each) => each.bytes), ...constants]);
}

/**
 * Of x - even, where even is the largest even number up to x, half and less is rounded to 0, one and a half and more to
 * 2, the rest to 1. The difference is exact wherever x is no whole number, but for the smallest negative ones: it is 2
 * there.
 * @param {import('./onnx_graph.js').Node} round
 */
function rounded({ inputs: [x], outputs: [result] }) {
  const part = (/** @type {string} */ name) => `${result}.${name}`;
  return [
    node('Mul', [x, 'round.half'], [part('halved')], ''),
    node('Floor', [part('halved')], [part('pairs')], ''),
    node('Mul', [part('pairs'), 'round.2'], [part('even')], ''),
    node('Sub', [x, part('even')], [part('rest')], ''),
    node('Greater', [part('rest'), 'round.half'], [part('is_above')], ''),
    node('Where', [part('is_above'), 'round.1', 'round.0'], [part('one')], ''),
    node('GreaterOrEqual', [part('rest'), 'round.one_and_half'], [part('is_near_two')], ''),
    node('Where', [part('is_near_two'), 'round.2', part('one')], [part('added')], ''),
    node('Add', [part('even'), part('added')], [result], ''),
  ];
}
