/**
 * The parts of a graph in double precision, computed by JavaScript: onnxruntime-web for WebGPU has no kernels for them.
 *
 * They are the angles of rotary embeddings. Each tensor of them is a matrix here: a vector is one row, a scalar one
 * number.
 */

import { PackageError } from './errors.js';
import { FLOAT32, FLOAT64, INT64, changed, floats, readModel, writeModel } from './onnx_graph.js';

/** @typedef {import('./onnx_graph.js').Node} Node */
/** @typedef {import('./onnx_graph.js').Initializer} Initializer */
/** @typedef {{rows: number, columns: number, values: Float64Array}} Matrix */
/** @typedef {{graph: Uint8Array, inputs: readonly string[], compute: (positionIds: ArrayLike<number>) => Map<string, Matrix>}} Rest */

const POSITIONS = 'position_ids';
/** @type {Record<string, (...values: number[]) => number>} */
const ELEMENTWISE = {
  Add: (a, b) => a + b,
  Sub: (a, b) => a - b,
  Mul: (a, b) => a * b,
  Pow: (a, b) => a ** b,
  Min: Math.min,
  Max: Math.max,
  Greater: (a, b) => Number(a > b),
  Where: (condition, a, b) => (condition ? a : b),
  Cos: Math.cos,
  Sin: Math.sin,
};

/**
 * The graph without them: their results are initializers where they depend on nothing, and else inputs that `compute`
 * gives for some positions.
 * @param {Uint8Array} bytes of the graph @param {string} file its name
 * @returns {Rest}
 */
export function withoutDoubles(bytes, file) {
  const model = readModel(bytes, file);
  const doubles = nodesInDouble(model.nodes, model.initializers);
  const results = resultsOf(model.nodes, doubles);
  const makers = new Map(model.nodes.map((each) => [each.outputs[0], each]));
  const stored = new Map(model.initializers.map((each) => [each.name, each]));
  const values = new Values(makers, stored, file);
  const constant = results.filter((name) => !dependsOnPositions(name, makers));
  const inputs = results.filter((name) => !constant.includes(name));
  const tables = constant.map((name) => {
    const { rows, columns, values: numbers } = values.of(name, new Map());
    return floats(name, [rows, columns], Float32Array.from(numbers));
  });
  const rest = model.nodes.filter((each) => !doubles.has(each));
  const used = new Set(rest.flatMap((each) => each.inputs));
  const kept = model.initializers.filter(({ name }) => used.has(name)).map((each) => each.bytes);
  const graph = writeModel(
    model,
    rest.map((each) => each.bytes),
    [...kept, ...tables],
  );
  return {
    graph: changed(readModel(graph, file), {
      drops: () => false,
      nodes: [],
      inputs: inputs.map((name) => [name, FLOAT32]),
      outputs: [],
    }),
    inputs,
    compute(positionIds) {
      const found = new Map([[POSITIONS, row(Float64Array.from(positionIds))]]);
      return new Map(inputs.map((name) => [name, values.of(name, found)]));
    },
  };
}

/** Nodes that read or write doubles. @param {readonly Node[]} nodes in their order @param {readonly Initializer[]} initializers */
function nodesInDouble(nodes, initializers) {
  const names = new Set(initializers.filter(({ dataType }) => dataType === FLOAT64).map(({ name }) => name));
  const found = new Set();
  for (const each of nodes) {
    const reads = each.inputs.some((name) => names.has(name));
    const isCast = each.opType === 'Cast';
    const writes = isCast ? each.integers.to === FLOAT64 : reads && each.opType !== 'Greater';
    if (writes) names.add(each.outputs[0]);
    if (writes || reads) found.add(each);
  }
  return found;
}

/** Tensors of theirs that other nodes read. @param {readonly Node[]} nodes @param {ReadonlySet<Node>} doubles */
function resultsOf(nodes, doubles) {
  const written = new Set([...doubles].map(({ outputs }) => outputs[0]));
  const readers = nodes.filter((each) => !doubles.has(each));
  return [...new Set(readers.flatMap(({ inputs }) => inputs.filter((name) => written.has(name))))];
}

/** @param {string} name @param {ReadonlyMap<string, Node>} makers @returns {boolean} */
function dependsOnPositions(name, makers) {
  if (name === POSITIONS) return true;
  return (makers.get(name)?.inputs ?? []).some((input) => dependsOnPositions(input, makers));
}

/** The values of tensors by their names. */
class Values {
  /**
   * @param {ReadonlyMap<string, Node>} makers @param {ReadonlyMap<string, Initializer>} stored @param {string} file
   */
  constructor(makers, stored, file) {
    this.makers = makers;
    this.stored = stored;
    this.file = file;
  }

  /** @param {string} name @param {Map<string, Matrix>} found so far @returns {Matrix} */
  of(name, found) {
    const known = found.get(name);
    if (known) return known;
    const maker = this.makers.get(name);
    const value = maker
      ? this.result(
          maker,
          maker.inputs.map((input) => this.of(input, found)),
        )
      : this.constant(name);
    found.set(name, value);
    return value;
  }

  /** @param {string} name */
  constant(name) {
    const { rawData, dataType } = this.stored.get(name) ?? {};
    if (!rawData || (dataType !== FLOAT64 && dataType !== INT64)) throw this.unknown(`the constant ${name}`);
    const { buffer } = rawData.slice(); // aligned
    if (dataType === FLOAT64) return row(new Float64Array(buffer));
    return row(Float64Array.from(new BigInt64Array(buffer), Number));
  }

  /** @param {Node} node @param {readonly Matrix[]} inputs @returns {Matrix} */
  result({ opType, integers }, inputs) {
    const [first] = inputs;
    if (opType === 'Range') {
      const [start, end, step] = inputs.map(({ values }) => values[0]);
      return row(Float64Array.from({ length: Math.ceil((end - start) / step) }, (_, i) => start + i * step));
    }
    if (opType === 'Cast') return integers.to === FLOAT32 ? elementwise(Math.fround, [first]) : first;
    if (opType === 'Reshape' && inputs[1].values.join() === '-1') return row(first.values);
    if (opType === 'Unsqueeze' && ['1', '-1'].includes(inputs[1].values.join())) {
      return { rows: first.columns, columns: 1, values: first.values };
    }
    const compute = ELEMENTWISE[opType];
    if (!compute) throw this.unknown(`the operator ${opType}`);
    return elementwise(compute, inputs);
  }

  /** @param {string} form */
  unknown(form) {
    return new PackageError(
      `${this.file} has ${form} in double precision, which this version cannot compute beside WebGPU; update it, or ` +
        'take WebAssembly, which is executionProviders: ["wasm"]',
    );
  }
}

/** @param {Float64Array} values @returns {Matrix} */
const row = (values) => ({ rows: 1, columns: values.length, values });

/**
 * A matrix of one row or column is as good as many equal ones.
 * @param {(...values: number[]) => number} compute @param {readonly Matrix[]} inputs @returns {Matrix}
 */
function elementwise(compute, inputs) {
  const rows = Math.max(...inputs.map((each) => each.rows));
  const columns = Math.max(...inputs.map((each) => each.columns));
  const values = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const operands = inputs.map(
        (each) => each.values[(each.rows === 1 ? 0 : i) * each.columns + (each.columns === 1 ? 0 : j)],
      );
      values[i * columns + j] = compute(...operands);
    }
  }
  return { rows, columns, values };
}
