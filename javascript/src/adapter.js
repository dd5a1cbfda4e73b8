/** One adapter: its matrices, checked against the places that the graphs have for them. Python's `runtime/adapters.py`. */

import { sha256 } from '@noble/hashes/sha2.js';

import { readAdapterFile } from './adapter_file.js';
import { DOWN, UP } from './adapter_graphs.js';
import { OptionError, PackageError, oneLine, shown } from './errors.js';
import { hexadecimal } from './folder_files.js';
import { FLOAT32 } from './onnx_graph.js';

/** @typedef {import('./sessions.js').Arrays} Arrays */
/** @typedef {import('./adapter_graphs.js').Places} Places */
/** @typedef {import('./adapter_file.js').Parameter} Parameter */

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

/** OptionError for a name that is no part of a file's name. @param {unknown} name */
export function checkName(name) {
  if (typeof name !== 'string' || !NAME.test(name))
    throw new OptionError(
      `the adapter's name is ${shown(name)}; it must be letters, digits, dots, dashes and underscores`,
    );
}

/**
 * The matrices in the bytes of a file by the inputs that each is for; PackageError where it is damaged, of another base, or
 * no adapter.
 * @param {Uint8Array} bytes @param {string} file its name in messages @param {Places} places @param {number} base its number
 */
export function readAdapter(bytes, file, places, base) {
  const { modelVersion, parameters } = parsed(bytes, file);
  if (modelVersion !== base)
    throw new PackageError(`${file} is an adapter of another base; export it with the base of this folder`);
  /** @type {Arrays} */
  const arrays = new Map();
  for (const [name, each] of parameters) arrays.set(name, arrayOf(each, name, file, places));
  checkRanks(arrays, file);
  return { arrays, sha256: hexadecimal(sha256(bytes)) };
}

/** @param {Uint8Array} bytes @param {string} file */
function parsed(bytes, file) {
  try {
    return readAdapterFile(bytes);
  } catch (error) {
    if (!(error instanceof RangeError) && !(error instanceof TypeError)) throw error;
    throw new PackageError(
      `${file} is no adapter of onnxruntime, or a damaged one (${oneLine(error)}); export it again`,
    );
  }
}

/** @param {Parameter} parameter @param {string} name @param {string} file @param {Places} places */
function arrayOf({ dims, dataType, bytes }, name, file, places) {
  const expected = places.get(name)?.shape;
  const fits = expected?.length === dims.length && expected.every((size, i) => size === dims[i] || isOpen(size));
  if (!fits) {
    throw new PackageError(
      `${file} has ${name} of shape [${dims}], for which the base has ${expected ? `[${expected}]` : 'no place'}`,
    );
  }
  const count = dims.reduce((a, b) => a * b, 1);
  const values = dataType === FLOAT32 && bytes.length === 4 * count ? new Float32Array(bytes.slice().buffer) : null;
  if (!values?.every(Number.isFinite))
    throw new PackageError(`${file} has ${name}, which must hold ${count} finite numbers of float32; export it again`);
  return { dims, values };
}

/** Whether a size of a place is any rank. @param {number | string} size */
const isOpen = (size) => typeof size === 'string';

/** PackageError where one of the thin matrices of a product is missing, or their ranks do not fit. @param {Arrays} arrays @param {string} file */
function checkRanks(arrays, file) {
  const products = new Set([...arrays.keys()].filter((name) => name.includes('.lora_')).map(productOf));
  for (const product of products) {
    const down = arrays.get(product + DOWN)?.dims[2] ?? 0;
    const ups = [...arrays].filter(([name]) => name.startsWith(product + UP)).map(([, { dims }]) => dims[1]);
    if (down > 0 && ups.length && ups.every((rank) => rank * ups.length === down)) continue;
    throw new PackageError(`${file} has ranks [${down}] and [${ups}] of ${product}, which do not fit; export it again`);
  }
}

/** @param {string} name */
const productOf = (name) => name.slice(0, name.lastIndexOf('.lora_'));
