/**
 * The graphs with places for an adapter. docs/decoder.md names the places, inputs that are initializers too.
 *
 * onnxruntime's JavaScript takes no values for such inputs: it asks a session for the inputs that must be given, and passes
 * over others. So the initializers are left out, and every place is given a matrix. Python leaves all places at rank 0 where an
 * adapter has nothing; Split of onnxruntime 1.30, which the JavaScript packages have, does not cut that.
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
 * A matrix for every place: those of an adapter, else of the smallest rank, which adds nothing, or the base's table.
 * @param {Arrays} arrays @param {Places} places @param {import('./source.js').Source} source of the weights
 * @param {number} least rank that the backend takes
 * @returns {Promise<Arrays>}
 */
export async function inAllPlaces(arrays, places, source, least) {
  /** @type {Arrays} */
  const all = new Map();
  for (const [name, { shape, initializer }] of places) {
    const dims = shape.map((size) => (typeof size === 'string' ? smallestRank(name, places, least) : size));
    const isTable = dims.every((size, i) => size === shape[i]);
    const zeros = () => new Float32Array(dims.reduce((a, b) => a * b, 1));
    all.set(name, arrays.get(name) ?? { dims, values: isTable ? await tableOf(initializer, source) : zeros() });
  }
  return all;
}

/**
 * That of the backend for a product of one part. Of several parts each has rank 1, for Split cuts no matrix without
 * columns, and the first matrix has as many columns as there are parts.
 * @param {string} name @param {Places} places @param {number} least
 */
function smallestRank(name, places, least) {
  const product = name.slice(0, name.lastIndexOf('.lora_'));
  const parts = [...places.keys()].filter((each) => each.startsWith(product + UP)).length;
  if (parts === 1) return least;
  return name === product + DOWN ? parts : 1;
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
