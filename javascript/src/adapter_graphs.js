/**
 * The graphs with places for an adapter. docs/decoder.md names the places, inputs that are initializers too.
 *
 * onnxruntime's JavaScript takes no values for such inputs: it asks a session for the inputs that must be given, and passes
 * over others. So the initializers are left out, and every place is given a matrix. Python leaves a place at rank 0 where an
 * adapter has nothing; Split of onnxruntime 1.30, which the JavaScript packages have, cuts no matrix without columns.
 */

import { DECODER_FILE, DRAFT_FILE, METADATA_KEY, RECURRENT_FILE, SAMPLE_KEY } from './description.js';
import { PackageError } from './errors.js';
import { FLOAT32, inputShapes, readModel, writeModel } from './onnx_graph.js';

/** @typedef {import('./onnx_graph.js').Initializer} Initializer */
/** @typedef {import('./sessions.js').Arrays} Arrays */
/**
 * Of an input: its shape, where a rank is a name, and the initializer in place of an adapter's matrix.
 * @typedef {ReadonlyMap<string, {shape: readonly (number | string)[], initializer: Initializer}>} Places
 */

/** @type {Record<string, string>} */
export const ADAPTED_FILES = {
  [DECODER_FILE]: 'onnx/decoder_adapters.onnx',
  [RECURRENT_FILE]: 'onnx/decoder_recurrent_adapters.onnx',
  [DRAFT_FILE]: 'onnx/decoder_draft_adapters.onnx',
};
export const DOWN = '.lora_A'; // endings of a product's thin matrices
export const UP = '.lora_B';
const BASE_KEY = 'doge_export.adapters'; // of the metadata

/**
 * @param {ReadonlyMap<string, Uint8Array>} files those of ADAPTED_FILES by name @param {Uint8Array} plain the base's graph
 */
export function readAdaptedGraphs(files, plain) {
  const { metadata } = readModel(plain, DECODER_FILE);
  /** @type {Map<string, Uint8Array>} */
  const graphs = new Map();
  for (const [file, bytes] of files) {
    const model = readModel(bytes, file);
    for (const key of [METADATA_KEY, SAMPLE_KEY]) {
      if (model.metadata.get(key) === metadata.get(key)) continue;
      throw new PackageError(
        `${file} is damaged, or of another export than ${DECODER_FILE}; copy the folder again, or load the page again`,
      );
    }
    graphs.set(file, withNeededPlaces(model));
  }
  const [[file, first]] = [...files].map(([name, bytes]) => /** @type {const} */ ([name, readModel(bytes, name)]));
  return { graphs, places: placesOf(first), base: baseNumber(first.metadata, file) };
}

/** @param {ReturnType<typeof readModel>} model @returns {Places} */
function placesOf(model) {
  const shapes = inputShapes(model);
  const initializers = model.initializers.filter(({ name }) => shapes.has(name));
  return new Map(initializers.map((each) => [each.name, { shape: shapes.get(each.name) ?? [], initializer: each }]));
}

/** @param {ReturnType<typeof readModel>} model */
function withNeededPlaces(model) {
  const shapes = inputShapes(model);
  return writeModel(
    model,
    model.nodes.map(({ bytes }) => bytes),
    model.initializers.filter(({ name }) => !shapes.has(name)).map(({ bytes }) => bytes),
  );
}

/** The number of the base, which files of its adapters have too. @param {ReadonlyMap<string, string>} metadata @param {string} file */
function baseNumber(metadata, file) {
  let number = null;
  try {
    number = JSON.parse(metadata.get(BASE_KEY) ?? '')?.base;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  if (!Number.isInteger(number))
    throw new PackageError(`${file} has no ${BASE_KEY} in its metadata; export the checkpoint again`);
  return Number(number);
}

/**
 * A matrix for every place: those of an adapter, else zeros of rank 1, which add nothing, or the base's table.
 * @param {Arrays} arrays @param {Places} places @param {import('./source.js').Source} source of the weights
 * @returns {Promise<Arrays>}
 */
export async function inAllPlaces(arrays, places, source) {
  /** @type {Arrays} */
  const all = new Map();
  for (const [name, { shape, initializer }] of places) {
    const dims = shape.map((size) => (typeof size === 'string' ? smallestRank(name, places) : size));
    const isTable = dims.every((size, i) => size === shape[i]);
    const zeros = () => new Float32Array(dims.reduce((a, b) => a * b, 1));
    all.set(name, arrays.get(name) ?? { dims, values: isTable ? await tableOf(initializer, source) : zeros() });
  }
  return all;
}

/** Of a product whose parts have rank 1: its first matrix has as many columns as there are parts. @param {string} name @param {Places} places */
function smallestRank(name, places) {
  if (!name.endsWith(DOWN)) return 1;
  const ups = name.slice(0, -DOWN.length) + UP;
  return [...places.keys()].filter((each) => each.startsWith(ups)).length;
}

/** @param {Initializer} initializer @param {import('./source.js').Source} source */
async function tableOf({ name, dims, dataType, rawData, external }, source) {
  const nbytes = dims.reduce((a, b) => a * b, 4);
  const bytes = external
    ? await (await source.data()).page(external.offset, external.offset + nbytes)
    : (rawData ?? new Uint8Array(0));
  if (dataType !== FLOAT32 || bytes.length !== nbytes)
    throw new PackageError(
      `the graphs for adapters have ${name} in a form that is damaged; export the checkpoint again`,
    );
  return new Float32Array(bytes.slice().buffer);
}
