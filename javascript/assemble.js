/**
 * The package for browsers without a bundler: node assemble.js FOLDER
 *
 * FOLDER is made anew. It gets the modules with the addresses of the libraries in place of their names, the libraries,
 * and onnxruntime-web. Any server can serve it; a page or worker imports FOLDER/index.js.
 */

import { cp, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const packages = join(here, 'node_modules');
/** @type {Record<string, string>} */
const LIBRARIES = {
  '@huggingface/jinja': './libraries/jinja.js',
  '@huggingface/tokenizers': './libraries/tokenizers.js',
  '@noble/hashes/sha2.js': './libraries/hashes/sha2.js',
};
/** @type {[string, string][]} */
const FILES = [
  ['@huggingface/jinja/dist/index.js', 'libraries/jinja.js'],
  ['@huggingface/tokenizers/dist/tokenizers.min.mjs', 'libraries/tokenizers.js'],
  ...['sha2.js', '_md.js', '_u64.js', 'utils.js'].map(
    (name) => /** @type {[string, string]} */ ([`@noble/hashes/${name}`, `libraries/hashes/${name}`]),
  ),
  ...fromOnnxruntime('ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm'),
];
// for WebGPU alone
const GPU_FILES = fromOnnxruntime(
  'ort.webgpu.min.mjs',
  'ort-wasm-simd-threaded.asyncify.mjs',
  'ort-wasm-simd-threaded.asyncify.wasm',
);

/** @param {string[]} names @returns {[string, string][]} */
function fromOnnxruntime(...names) {
  return names.map((name) => [`onnxruntime-web/dist/${name}`, `onnxruntime/${name}`]);
}

/** @param {string} folder */
export async function assemble(folder) {
  await rm(folder, { recursive: true, force: true });
  for (const [from, to] of [...FILES, ...GPU_FILES]) {
    await mkdir(dirname(join(folder, to)), { recursive: true });
    await cp(join(packages, from), join(folder, to));
  }
  const modules = await readdir(join(here, 'src'));
  for (const name of modules) {
    let text = await readFile(join(here, 'src', name), 'utf-8');
    for (const [library, address] of Object.entries(LIBRARIES))
      text = text.replaceAll(`from '${library}'`, `from '${address}'`);
    await writeFile(join(folder, name), text);
  }
  // for a service worker, which is to keep them: those of all pages, and those of pages that choose WebGPU
  const lists = { all: [...modules, ...FILES.map(([, to]) => to)], webgpu: GPU_FILES.map(([, to]) => to) };
  await writeFile(join(folder, 'files.json'), JSON.stringify(lists));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await assemble(process.argv[2] ?? join(here, 'browser'));
