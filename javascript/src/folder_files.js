/** Whether the files of an exported folder belong together: Python's `runtime/folder_files.py`. */

import { sha256 } from '@noble/hashes/sha2.js';

import {
  DATA_FILE,
  DECODER_FILE,
  DRAFT_FILE,
  METADATA_KEY,
  RECURRENT_FILE,
  SAMPLE_KEY,
  readDescription,
} from './description.js';
import { PackageError, shown } from './errors.js';
import { readModel } from './onnx_graph.js';
import { REPORT_FILE, TEMPLATES, parseJson } from './source.js';

const [SAMPLES, SAMPLE_BYTES] = [16, 4096];
const REMEDY = 'copy the folder again, or export the checkpoint again';
const TOKENIZER_FILE = 'tokenizer.json';
// every file that the runtime reads; a folder may lack those that its report does not list
const GRAPHS = [DECODER_FILE, RECURRENT_FILE, DRAFT_FILE];
const FILES = [...GRAPHS, DATA_FILE, 'config.json', 'generation_config.json', TOKENIZER_FILE];
FILES.push('tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja');

/**
 * The description of the folder's decoder and the graphs that it was read from, which are those to open. PackageError
 * where a file is missing or is of another export.
 * @param {import('./source.js').Source} source
 */
export async function checkedFolder(source) {
  /** @type {Map<string, Uint8Array>} */
  const graphs = new Map();
  for (const file of GRAPHS) graphs.set(file, await source.bytes(file));
  const [plain, ...others] = [...graphs].map(([file, bytes]) => readModel(bytes, file).metadata);
  const description = readDescription(plain, DECODER_FILE);
  const odd = others.findIndex((metadata) => metadata.get(METADATA_KEY) !== plain.get(METADATA_KEY));
  if (odd >= 0) {
    throw new PackageError(`${GRAPHS[odd + 1]} is damaged, or of another export than ${DECODER_FILE}; ${REMEDY}`);
  }
  const sample = plain.get(SAMPLE_KEY); // graphs of earlier exports have none
  source.expect({
    hash: description.weightsSha256,
    isSure: sample !== undefined,
    check: (data) => checkData(data, sample),
  });
  await source.data();
  await checkReport(source);
  return { description, graphs };
}

/** @param {import('./source.js').DataPages} data @param {string | undefined} sample JSON of the size and a sample's hash */
async function checkData(data, sample) {
  if (sample === undefined) return;
  const digest = sha256.create();
  for (let index = 0; index < SAMPLES; index++) {
    const from = Math.floor((Math.max(0, data.size - SAMPLE_BYTES) * index) / (SAMPLES - 1));
    digest.update(await data.page(from, Math.min(from + SAMPLE_BYTES, data.size)));
  }
  const wanted = parseJson(sample, `the metadata of ${DECODER_FILE}`);
  if (wanted.bytes !== data.size || wanted.sample_sha256 !== hexadecimal(digest.digest()))
    throw new PackageError(`${DATA_FILE} is damaged, or of another export than ${DECODER_FILE}; ${REMEDY}`);
}

/**
 * Refuse a folder that lacks a file of its report, or has another data file or tokenizer by their sizes. The other files
 * are short texts, which an owner may edit. A folder without a report, of a random model, passes.
 * @param {import('./source.js').Source} source
 */
async function checkReport(source) {
  const report = await source.text(REPORT_FILE);
  const sizes = report === null ? {} : parseJson(report, REPORT_FILE).files;
  for (const [name, expected] of Object.entries(Object(sizes))) {
    const isRead = FILES.includes(name) || (name.startsWith(`${TEMPLATES}/`) && name.endsWith('.jinja'));
    if (!isRead) continue;
    const size = await source.size(name);
    if (size === null) throw new PackageError(`${name} is missing; ${REMEDY}`);
    if ([DATA_FILE, TOKENIZER_FILE].includes(name) && size !== expected) {
      throw new PackageError(
        `${name} has ${size} bytes, but ${shown(expected)} in ${REPORT_FILE}, so one of the two is damaged, or of ` +
          `another export; ${REMEDY}`,
      );
    }
  }
}

/** @param {Uint8Array} bytes */
export function hexadecimal(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
