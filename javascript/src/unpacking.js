/**
 * Graphs for WebAssembly, where MatMulNBits unpacks its whole matrix on every call: each becomes a product in float32.
 *
 * The download stays as it is. The matrices are unpacked while onnxruntime asks for them, one at a time, so that no
 * second copy of the model lies in JavaScript. docs/javascript.md has the figures.
 */

import { PackageError } from './errors.js';
import { FLOAT16, FLOAT32, UINT8, externalFloats, node, readModel, readNode, writeModel } from './onnx_graph.js';

/** @typedef {import('./onnx_graph.js').Initializer} Initializer */
/** @typedef {import('./onnx_graph.js').Node} Node */

/**
 * A file that onnxruntime reads by ranges. It is a Uint8Array, or computes what it is asked for.
 * @typedef {{byteLength: number, subarray(from: number, to: number): Uint8Array}} RangeFile
 */

/**
 * A graph whose products are in float32, and the files that it reads beside its data file.
 * @param {Uint8Array} bytes of the graph @param {string} file its name @param {Uint8Array} data the data file
 */
export function unpacked(bytes, file, data) {
  const model = readModel(bytes, file);
  const initializers = new Map(model.initializers.map((each) => [each.name, each]));
  const casts = new Map(
    model.nodes.filter(({ opType }) => opType === 'Cast').map((cast) => [cast.outputs[0], cast.inputs[0]]),
  );
  const stored = (/** @type {string} */ name) => initializers.get(name) ?? initializers.get(casts.get(name) ?? '');
  /** @type {Map<string, RangeFile>} */
  const files = new Map();
  /** @type {Map<string, Uint8Array>} */
  const matrices = new Map();
  const nodes = model.nodes.flatMap((each) => {
    if (each.opType !== 'MatMulNBits') return [each.bytes];
    const name = `${each.inputs[1]}.unpacked`;
    if (!matrices.has(name)) {
      const matrix = blocksOf(each, stored, file);
      for (const tensor of [matrix.codes, matrix.scales, matrix.zeroPoints]) if (tensor) checkSize(tensor, data, file);
      matrices.set(name, externalFloats(name, [each.integers.N, each.integers.K]));
      files.set(name, new UnpackedMatrix(matrix, data));
    }
    return product(each, name);
  });
  const used = new Set(nodes.flatMap((each) => readNode(each).inputs));
  const kept = model.initializers.filter(({ name }) => used.has(name)).map((each) => each.bytes);
  return { graph: writeModel(model, nodes, [...kept, ...matrices.values()]), files };
}

/** The nodes of one product. @param {Node} from @param {string} matrix */
function product(from, matrix) {
  const [x, bias, y] = [from.inputs[0], from.inputs[5], from.outputs[0]];
  const inner = bias ? `${y}.product` : y;
  const nodes = [node('FusedMatMul', [x, matrix], [inner], 'com.microsoft', { transB: 1 })];
  if (bias) nodes.push(node('Add', [inner, bias], [y], ''));
  return nodes;
}

/**
 * @typedef {object} Blocks the stored form of a matrix [rows, columns]
 * @property {number} rows
 * @property {number} columns
 * @property {number} bits 4 or 8
 * @property {number} blockSize
 * @property {Initializer} codes
 * @property {Initializer} scales
 * @property {Initializer | null} zeroPoints
 */

/**
 * @param {Node} from @param {(name: string) => Initializer | undefined} stored @param {string} file
 * @returns {Blocks}
 */
function blocksOf(from, stored, file) {
  const { K: columns, N: rows, block_size: blockSize, bits = 4 } = from.integers;
  const [codes, scales, zeroPoints] = [1, 2, 3].map((index) => stored(from.inputs[index] ?? ''));
  const plain = (bits === 4 || bits === 8) && !from.inputs[4] && codes?.dataType === UINT8;
  const isRead =
    scales && [FLOAT32, FLOAT16].includes(scales.dataType) && (!from.inputs[3] || zeroPoints?.dataType === UINT8);
  if (!plain || !isRead || !codes || !scales) {
    throw new PackageError(
      `${file} stores the matrix ${from.inputs[1]} in a form that this version cannot unpack; update it, or export the ` +
        'checkpoint again',
    );
  }
  return { rows, columns, bits, blockSize, codes, scales, zeroPoints: zeroPoints ?? null };
}

/** One matrix as onnxruntime reads it: float32, computed when it is asked for. @implements {RangeFile} */
class UnpackedMatrix {
  /** @param {Blocks} blocks @param {Uint8Array} data */
  constructor(blocks, data) {
    this.blocks = blocks;
    this.data = data;
    this.byteLength = 4 * blocks.rows * blocks.columns;
  }

  /** @param {number} from @param {number} to bytes */
  subarray(from, to) {
    return new Uint8Array(unpack(this.blocks, this.data).buffer, from, to - from);
  }
}

/** Float32 [rows, columns]. @param {Blocks} blocks @param {Uint8Array} data */
export function unpack(blocks, data) {
  const { rows, columns, bits, blockSize } = blocks;
  const codes = bytesOf(blocks.codes, data);
  const scales = floatsOf(blocks.scales, data);
  const zeroPoints = blocks.zeroPoints && bytesOf(blocks.zeroPoints, data);
  const blocksInRow = Math.ceil(columns / blockSize);
  const zeroBytesInRow = Math.ceil((blocksInRow * bits) / 8);
  const middle = 2 ** (bits - 1);
  const values = new Float32Array(rows * columns);
  const fill = bits === 8 ? fillFrom8 : fillFrom4;
  for (let row = 0, block = 0; row < rows; row++) {
    for (let i = 0; i < blocksInRow; i++, block++) {
      const zero = zeroPoints ? code(zeroPoints, row * zeroBytesInRow, i, bits) : middle;
      const count = Math.min(blockSize, columns - i * blockSize);
      fill(values, row * columns + i * blockSize, count, codes, (block * blockSize * bits) / 8, scales[block], zero);
    }
  }
  return values;
}

/**
 * @param {Float32Array} values @param {number} at @param {number} count
 * @param {Uint8Array} codes @param {number} from @param {number} scale @param {number} zero
 */
function fillFrom8(values, at, count, codes, from, scale, zero) {
  for (let i = 0; i < count; i++) values[at + i] = (codes[from + i] - zero) * scale;
}

/**
 * Two codes in a byte, the first one lowest.
 * @param {Float32Array} values @param {number} at @param {number} count
 * @param {Uint8Array} codes @param {number} from @param {number} scale @param {number} zero
 */
function fillFrom4(values, at, count, codes, from, scale, zero) {
  for (let i = 0; i < count; i++) {
    const byte = codes[from + (i >> 1)];
    values[at + i] = ((i & 1 ? byte >> 4 : byte & 15) - zero) * scale;
  }
}

/** @param {Uint8Array} packed @param {number} from @param {number} index @param {number} bits */
function code(packed, from, index, bits) {
  if (bits === 8) return packed[from + index];
  const byte = packed[from + (index >> 1)];
  return index & 1 ? byte >> 4 : byte & 15;
}

/** @param {Initializer} tensor @param {Uint8Array} data */
function bytesOf(tensor, data) {
  if (tensor.external === null) return tensor.rawData ?? new Uint8Array();
  const { offset, length } = tensor.external;
  return data.subarray(offset, offset + (length ?? nbytesOf(tensor)));
}

/** @param {Initializer} tensor of a type that is unpacked */
function nbytesOf({ dims, dataType }) {
  return dims.reduce((a, b) => a * b, { [FLOAT32]: 4, [FLOAT16]: 2 }[dataType] ?? 1);
}

/**
 * PackageError for numbers that lie outside their file. @param {Initializer} tensor @param {Uint8Array} data
 * @param {string} file
 */
function checkSize(tensor, data, file) {
  const size = bytesOf(tensor, data).length;
  if (size === nbytesOf(tensor)) return;
  throw new PackageError(
    `${file} has ${size} of ${nbytesOf(tensor)} bytes of ${tensor.name}, so a file is damaged; copy the folder again, or ` +
      'export the checkpoint again',
  );
}

/** @param {Initializer} tensor of float32 or float16 @param {Uint8Array} data @returns {Float32Array} */
function floatsOf(tensor, data) {
  const bytes = bytesOf(tensor, data).slice(); // aligned
  if (tensor.dataType === FLOAT32) return new Float32Array(bytes.buffer);
  return Float32Array.from(new Uint16Array(bytes.buffer), halfToFloat);
}

/** The number of a float16's bits. @param {number} half */
export function halfToFloat(half) {
  const [sign, exponent, fraction] = [half & 0x8000 ? -1 : 1, (half >> 10) & 31, half & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
