/** An ONNX file as its nodes and initializers, as far as the runtime reads and changes them. Numbers: onnx.proto. */

import { PackageError, oneLine } from './errors.js';
import { all, field, numberField, numbers, parse, serialize, text, texts } from './protobuf.js';

/** @typedef {import('./protobuf.js').Field} Field */

const MODEL = { graph: 7, opset: 8, metadata: 14 };
const OPSET = { domain: 1, version: 2 };
const GRAPH = { node: 1, name: 2, initializer: 5, input: 11, output: 12 };
const VALUE_INFO = { name: 1, type: 2, tensor: 1, elementType: 1, shape: 2, dim: 1 };
const DIM = { size: 1, name: 2 };
const NODE = { input: 1, output: 2, name: 3, opType: 4, attribute: 5, domain: 7 };
const ATTRIBUTE = { name: 1, integer: 3, graph: 6, integers: 8, type: 20 };
const TENSOR = { dims: 1, dataType: 2, name: 8, rawData: 9, externalData: 13, dataLocation: 14 };
const [KEY, VALUE] = [1, 2]; // of an entry
const ATTRIBUTES = { integer: 2, graph: 5, integers: 7 };
const EXTERNAL = 1;

export const FLOAT32 = 1;
export const UINT8 = 2;
export const INT8 = 3;
export const INT64 = 7;
export const FLOAT16 = 10;
export const FLOAT64 = 11;

/**
 * @typedef {object} Node
 * @property {string} opType
 * @property {readonly string[]} inputs
 * @property {readonly string[]} outputs
 * @property {Record<string, number>} integers its attributes of that kind
 * @property {Uint8Array} bytes as it stands in the file
 */

/**
 * @typedef {object} Initializer
 * @property {string} name
 * @property {readonly number[]} dims
 * @property {number} dataType
 * @property {Uint8Array | null} rawData null where the numbers lie in another file
 * @property {{location: string, offset: number, length: number | null} | null} external length: null reaches as far as
 * the numbers do
 * @property {Uint8Array} bytes as it stands in the file
 */

/** @param {Uint8Array} bytes @param {string} file */
export function readModel(bytes, file) {
  try {
    const fields = parse(bytes);
    const graph = parse(all(fields, MODEL.graph)[0] ?? new Uint8Array());
    return {
      fields,
      graph,
      metadata: new Map(all(fields, MODEL.metadata).map(entry)),
      nodes: all(graph, GRAPH.node).map(readNode),
      initializers: all(graph, GRAPH.initializer).map(readInitializer),
    };
  } catch (error) {
    if (error instanceof RangeError) {
      throw new PackageError(
        `${file} is no ONNX file, or a damaged one (${oneLine(error)}); export the checkpoint again`,
      );
    }
    throw error;
  }
}

/**
 * The file with other nodes and initializers.
 * @param {ReturnType<typeof readModel>} model
 * @param {readonly Uint8Array[]} nodes @param {readonly Uint8Array[]} initializers
 */
export function writeModel(model, nodes, initializers) {
  const rest = model.graph.filter(({ number }) => number !== GRAPH.node && number !== GRAPH.initializer);
  const graph = [
    ...nodes.map((node) => field(GRAPH.node, node)),
    ...initializers.map((initializer) => field(GRAPH.initializer, initializer)),
    ...rest,
  ];
  return serialize(model.fields.map((each) => (each.number === MODEL.graph ? field(MODEL.graph, graph) : each)));
}

/**
 * The file with further nodes and inputs, and with other outputs in place of those that `drops` names. Values of the
 * graph have a name and an element type.
 * @param {ReturnType<typeof readModel>} model
 * @param {{drops: (name: string) => boolean, nodes: Uint8Array[], inputs: [string, number][], outputs: [string, number][]}} change
 */
export function changed(model, { drops, nodes, inputs, outputs }) {
  const kept = model.graph.filter(
    ({ number, value }) =>
      number !== GRAPH.output || !(value instanceof Uint8Array) || !drops(text(parse(value), VALUE_INFO.name)),
  );
  const graph = field(MODEL.graph, [
    ...kept,
    ...nodes.map((each) => field(GRAPH.node, each)),
    ...inputs.map(([name, type]) => valueInfo(GRAPH.input, name, type)),
    ...outputs.map(([name, type]) => valueInfo(GRAPH.output, name, type)),
  ]);
  return serialize(model.fields.map((each) => (each.number === MODEL.graph ? graph : each)));
}

/**
 * The inputs by their names, with shapes: a size that is open has a name.
 * @param {ReturnType<typeof readModel>} model @returns {Map<string, (number | string)[]>}
 */
export function inputShapes({ graph }) {
  return new Map(
    all(graph, GRAPH.input).map((bytes) => {
      const info = parse(bytes);
      const path = [VALUE_INFO.type, VALUE_INFO.tensor, VALUE_INFO.shape];
      const shape = path.reduce((fields, number) => parse(all(fields, number)[0] ?? new Uint8Array()), info);
      const dims = all(shape, VALUE_INFO.dim).map(parse);
      return [text(info, VALUE_INFO.name), dims.map((dim) => numbers(dim, DIM.size)[0] ?? text(dim, DIM.name))];
    }),
  );
}

/** @param {number} number @param {string} name @param {number} type */
function valueInfo(number, name, type) {
  const tensor = field(VALUE_INFO.tensor, [numberField(VALUE_INFO.elementType, type)]);
  return field(number, [field(VALUE_INFO.name, name), field(VALUE_INFO.type, [tensor])]);
}

/**
 * The model with another version of ONNX's own operators. @param {ReturnType<typeof readModel>} model
 * @param {number} version
 */
export function withOpset(model, version) {
  const opset = field(MODEL.opset, [numberField(OPSET.version, version)]);
  const isOnnx = (/** @type {Field} */ { number, value }) =>
    number === MODEL.opset && value instanceof Uint8Array && !text(parse(value), OPSET.domain);
  return { ...model, fields: model.fields.map((each) => (isOnnx(each) ? opset : each)) };
}

/**
 * @param {string} opType @param {readonly string[]} inputs @param {readonly string[]} outputs
 * @param {string} domain @param {Record<string, number>} [integers]
 * @param {readonly Uint8Array[]} [attributes] of other kinds
 */
export function node(opType, inputs, outputs, domain, integers = {}, attributes = []) {
  return serialize([
    ...inputs.map((name) => field(NODE.input, name)),
    ...outputs.map((name) => field(NODE.output, name)),
    field(NODE.name, outputs[0]),
    field(NODE.opType, opType),
    ...Object.entries(integers).map(([name, value]) =>
      field(NODE.attribute, [
        field(ATTRIBUTE.name, name),
        numberField(ATTRIBUTE.integer, value),
        numberField(ATTRIBUTE.type, ATTRIBUTES.integer),
      ]),
    ),
    ...attributes.map((each) => field(NODE.attribute, each)),
    field(NODE.domain, domain),
  ]);
}

/** An attribute for `node`. @param {string} name @param {readonly number[]} values */
export function integersAttribute(name, values) {
  return serialize([
    field(ATTRIBUTE.name, name),
    ...values.map((value) => numberField(ATTRIBUTE.integers, value)),
    numberField(ATTRIBUTE.type, ATTRIBUTES.integers),
  ]);
}

/**
 * An attribute for `node`: a graph without inputs, which reads the values around it.
 * @param {string} name @param {readonly Uint8Array[]} nodes @param {readonly [string, number][]} outputs names and
 * element types
 */
export function graphAttribute(name, nodes, outputs) {
  return serialize([
    field(ATTRIBUTE.name, name),
    field(ATTRIBUTE.graph, [
      ...nodes.map((each) => field(GRAPH.node, each)),
      field(GRAPH.name, name),
      ...outputs.map(([output, type]) => valueInfo(GRAPH.output, output, type)),
    ]),
    numberField(ATTRIBUTE.type, ATTRIBUTES.graph),
  ]);
}

/** A node's attributes by their names. @param {Node} node @returns {Map<string, Uint8Array>} */
export function attributesOf({ bytes }) {
  return new Map(all(parse(bytes), NODE.attribute).map((each) => [text(parse(each), ATTRIBUTE.name), each]));
}

/** A node with the default in place of an attribute. @param {Node} node @param {string} name */
export function withDefault({ bytes }, name) {
  const isOther = (/** @type {Field} */ { number, value }) =>
    number !== NODE.attribute || !(value instanceof Uint8Array) || text(parse(value), ATTRIBUTE.name) !== name;
  return serialize(parse(bytes).filter(isOther));
}

/** A float32 tensor. @param {string} name @param {readonly number[]} dims @param {Float32Array} values */
export function floats(name, dims, values) {
  return serialize([
    ...dims.map((dim) => numberField(TENSOR.dims, dim)),
    numberField(TENSOR.dataType, FLOAT32),
    field(TENSOR.name, name),
    field(TENSOR.rawData, new Uint8Array(values.buffer, values.byteOffset, values.byteLength)),
  ]);
}

/** A float32 tensor whose numbers are all of another file. @param {string} name @param {readonly number[]} dims */
export function externalFloats(name, dims) {
  const length = 4 * dims.reduce((a, b) => a * b, 1);
  const entries = { location: name, offset: 0, length };
  return serialize([
    ...dims.map((dim) => numberField(TENSOR.dims, dim)),
    numberField(TENSOR.dataType, FLOAT32),
    field(TENSOR.name, name),
    ...Object.entries(entries).map(([key, value]) =>
      field(TENSOR.externalData, [field(KEY, key), field(VALUE, String(value))]),
    ),
    numberField(TENSOR.dataLocation, EXTERNAL),
  ]);
}

/** @param {Uint8Array} bytes @returns {[string, string]} */
function entry(bytes) {
  const fields = parse(bytes);
  return [text(fields, KEY), text(fields, VALUE)];
}

/** @param {Uint8Array} bytes @returns {Node} */
export function readNode(bytes) {
  const fields = parse(bytes);
  const integers = all(fields, NODE.attribute)
    .map(parse)
    .map((attribute) => [text(attribute, ATTRIBUTE.name), numbers(attribute, ATTRIBUTE.integer)[0]]);
  return {
    opType: text(fields, NODE.opType),
    inputs: texts(fields, NODE.input),
    outputs: texts(fields, NODE.output),
    integers: Object.fromEntries(integers.filter(([, value]) => value !== undefined)),
    bytes,
  };
}

/** @param {Uint8Array} bytes @returns {Initializer} */
function readInitializer(bytes) {
  const fields = parse(bytes);
  const external = Object.fromEntries(all(fields, TENSOR.externalData).map(entry));
  return {
    name: text(fields, TENSOR.name),
    dims: numbers(fields, TENSOR.dims),
    dataType: numbers(fields, TENSOR.dataType)[0],
    rawData: all(fields, TENSOR.rawData)[0] ?? null,
    external:
      external.location === undefined
        ? null
        : {
            location: external.location,
            offset: Number(external.offset ?? 0),
            length: external.length === undefined ? null : Number(external.length),
          },
    bytes,
  };
}
