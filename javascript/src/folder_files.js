/** Whether the files of an exported folder belong together: Python's `runtime/folder_files.py`. */

import { sha256 } from '@noble/hashes/sha2.js';

import { DATA_FILE, DECODER_FILE, METADATA_KEY, RECURRENT_FILE, SAMPLE_KEY, readDescription } from './description.js';
import { PackageError } from './errors.js';
import { readModel } from './onnx_graph.js';

const [SAMPLES, SAMPLE_BYTES] = [16, 4096];
const REMEDY = 'copy the folder again, or export the checkpoint again';

/**
 * The description of the folder's decoder; PackageError where a file is missing or is of another export.
 * @param {import('./source.js').Source & {forget?: (file: string) => Promise<boolean>}} source
 */
export async function checkedDescription(source) {
  const plain = readModel(await source.bytes(DECODER_FILE), DECODER_FILE).metadata;
  const recurrent = readModel(await source.bytes(RECURRENT_FILE), RECURRENT_FILE).metadata;
  const description = readDescription(plain, DECODER_FILE);
  if (plain.get(METADATA_KEY) !== recurrent.get(METADATA_KEY)) {
    throw new PackageError(`${RECURRENT_FILE} is damaged, or of another export than ${DECODER_FILE}; ${REMEDY}`);
  }
  const sample = plain.get(SAMPLE_KEY); // graphs of earlier exports have none
  if (sample === undefined || (await fits(source, sample))) return description;
  // a cache may hold the data of an export that has been replaced
  if ((await source.forget?.(DATA_FILE)) && (await fits(source, sample))) return description;
  throw new PackageError(`${DATA_FILE} is damaged, or of another export than ${DECODER_FILE}; ${REMEDY}`);
}

/** @param {import('./source.js').Source} source @param {string} sample JSON of the size and a sample's hash */
async function fits(source, sample) {
  const data = await source.data();
  const digest = sha256.create();
  for (let index = 0; index < SAMPLES; index++) {
    const from = Math.floor((Math.max(0, data.size - SAMPLE_BYTES) * index) / (SAMPLES - 1));
    digest.update(await data.page(from, Math.min(from + SAMPLE_BYTES, data.size)));
  }
  const found = { bytes: data.size, sample_sha256: hexadecimal(digest.digest()) };
  const wanted = JSON.parse(sample);
  return wanted.bytes === found.bytes && wanted.sample_sha256 === found.sample_sha256;
}

/** @param {Uint8Array} bytes */
export function hexadecimal(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
