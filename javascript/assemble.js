#!/usr/bin/env node
/**
 * The package for browsers without a bundler: doge-export-assemble FOLDER, or node assemble.js FOLDER
 *
 * FOLDER is made anew. It gets the modules with the addresses of the libraries in place of their names, the libraries,
 * and onnxruntime-web. Any server can serve it; a page or worker imports FOLDER/index.js.
 */

import { existsSync, realpathSync } from 'node:fs';
import { cp, mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { OptionError, PackageError, oneLine } from './src/errors.js';

const own = fileURLToPath(import.meta.url);
const here = dirname(own);
const { paths } = createRequire(import.meta.url).resolve;
const LIST = 'files.json';
/** @type {Record<string, string>} */
const LIBRARIES = {
  '@huggingface/jinja': './libraries/jinja.js',
  '@huggingface/tokenizers': './libraries/tokenizers.js',
  '@noble/hashes/sha2.js': './libraries/hashes/sha2.js',
};
/** A package, a file of it, and where that goes. @typedef {[string, string, string]} Copied */
/** @type {Copied[]} */
const FILES = [
  ['@huggingface/jinja', 'dist/index.js', 'libraries/jinja.js'],
  ['@huggingface/tokenizers', 'dist/tokenizers.min.mjs', 'libraries/tokenizers.js'],
  ...['sha2.js', '_md.js', '_u64.js', 'utils.js'].map(
    (name) => /** @type {Copied} */ (['@noble/hashes', name, `libraries/hashes/${name}`]),
  ),
  ...fromOnnxruntime('ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm'),
];
// for WebGPU alone
const GPU_FILES = fromOnnxruntime(
  'ort.webgpu.min.mjs',
  'ort-wasm-simd-threaded.asyncify.mjs',
  'ort-wasm-simd-threaded.asyncify.wasm',
);

/** @param {string[]} names @returns {Copied[]} */
function fromOnnxruntime(...names) {
  return names.map((name) => ['onnxruntime-web', `dist/${name}`, `onnxruntime/${name}`]);
}

/**
 * Write the folder beside its place, and move it there once it is whole.
 * @param {string} folder
 */
export async function assemble(folder) {
  const place = resolve(folder);
  if (existsSync(place) && !existsSync(join(place, LIST))) {
    throw new OptionError(
      `${folder} is there, and is none that this program made whole; remove it, or name a folder that is not there`,
    );
  }
  const copied = [...FILES, ...GPU_FILES].map(([library, file, to]) => [join(packageFolder(library), file), to]);
  const made = join(dirname(place), `.${basename(place)}-${process.pid}`);
  try {
    await mkdir(made, { recursive: true });
    await fill(made, copied);
    await rm(place, { recursive: true, force: true });
    await rename(made, place);
  } finally {
    await rm(made, { recursive: true, force: true });
  }
}

/** @param {string} folder @param {string[][]} copied files, and where they go */
async function fill(folder, copied) {
  for (const [from, to] of copied) {
    await mkdir(dirname(join(folder, to)), { recursive: true });
    await cp(from, join(folder, to));
  }
  const modules = (await readdir(join(here, 'src'))).filter((name) => name.endsWith('.js'));
  for (const name of modules) {
    let text = await readFile(join(here, 'src', name), 'utf-8');
    for (const [library, address] of Object.entries(LIBRARIES))
      text = text.replaceAll(`from '${library}'`, `from '${address}'`);
    await writeFile(join(folder, name), text);
  }
  // for a service worker, which is to keep them: those of all pages, and those of pages that choose WebGPU
  const lists = { all: [...modules, ...FILES.map(([, , to]) => to)], webgpu: GPU_FILES.map(([, , to]) => to) };
  await writeFile(join(folder, LIST), JSON.stringify(lists));
}

/** Where Node finds a package: beside this one, or in it. @param {string} name */
function packageFolder(name) {
  const found = (paths(name) ?? []).map((folder) => join(folder, name)).find((folder) => existsSync(folder));
  if (found) return found;
  const { peerDependencies, dependencies } = createRequire(import.meta.url)('./package.json');
  throw new PackageError(
    `${name} is not installed, whose files a page needs; run npm install ${name}@${{ ...dependencies, ...peerDependencies }[name]}`,
  );
}

// npm starts it by a link
if (process.argv[1] && realpathSync(process.argv[1]) === own) {
  await assemble(process.argv[2] ?? join(here, 'browser')).catch((error) => {
    console.error(`doge-export-assemble: ${oneLine(error)}`);
    process.exitCode = 1;
  });
}
