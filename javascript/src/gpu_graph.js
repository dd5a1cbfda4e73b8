/** Graphs for WebGPU: without the operators that it lacks, and with what a session reads of each run. */

import { withoutDoubles } from './doubles.js';
import { withoutRound } from './gpu_rounding.js';
import { FLOAT32, INT64, changed, node, readModel, withDefault, writeModel } from './onnx_graph.js';
import { NEW_SLOTS } from './tensor_binding.js';

export const NEW_ROWS = 'new_rows'; // an output: [2 * layers, heads, S, channels], keys and values in turn

/**
 * presents: outputs that stay on the GPU. rest: what JavaScript computes for each run.
 * @param {Uint8Array} bytes @param {string} file @param {import('./description.js').DecoderDescription} description
 */
export function gpuGraph(bytes, file, { numLayers }) {
  const rest = withoutDoubles(bytes, file);
  const presents = Array.from({ length: numLayers }, (_, layer) => [
    `present.${layer}.key`,
    `present.${layer}.value`,
  ]).flat();
  const graph = withoutRound(withPlainProducts(rest.graph, file), file);
  return { graph: withRowsBeside(graph, file, presents), presents, rest };
}

/**
 * Products in float32. FusedMatMul has no kernel there, so onnxruntime transposes its matrices once, as it opens the
 * graph. MatMulNBits is asked for no accuracy level, as 4 would round activations to 8 bits in blocks of 128.
 * @param {Uint8Array} bytes @param {string} file
 */
function withPlainProducts(bytes, file) {
  const model = readModel(bytes, file);
  const constants = new Set(model.initializers.map(({ name }) => name));
  /** @type {Set<string>} */
  const transposed = new Set();
  const nodes = model.nodes.flatMap((each) => {
    if (each.opType === 'MatMulNBits') return [withDefault(each, 'accuracy_level')];
    const [x, matrix] = each.inputs;
    const { transB, ...others } = each.integers;
    const isPlain = each.opType === 'FusedMatMul' && transB === 1 && constants.has(matrix);
    if (!isPlain || Object.values(others).some(Boolean)) return [each.bytes];
    const columns = `${matrix}.columns`;
    const product = node('MatMul', [x, columns], [...each.outputs], '');
    if (transposed.has(columns)) return [product];
    transposed.add(columns);
    return [node('Transpose', [matrix], [columns], ''), product];
  });
  return writeModel(
    model,
    nodes,
    model.initializers.map((each) => each.bytes),
  );
}

/**
 * The graph with one more output, the new keys and values of all layers: each output that is read takes a wait.
 * @param {Uint8Array} bytes @param {string} file @param {readonly string[]} presents
 */
function withRowsBeside(bytes, file, presents) {
  const rows = presents.map((name) => `${NEW_ROWS}.${name}`);
  return changed(readModel(bytes, file), {
    drops: () => false,
    nodes: [
      ...presents.map((name, i) => node('Gather', [name, NEW_SLOTS], [rows[i]], '', { axis: 2 })),
      node('Concat', rows, [NEW_ROWS], '', { axis: 0 }),
    ],
    inputs: [[NEW_SLOTS, INT64]],
    outputs: [[NEW_ROWS, FLOAT32]],
  });
}
