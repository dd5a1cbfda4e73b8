/** Where the package runs, and what WebAssembly can do there. */

import { PackageError } from './errors.js';

// a module with a function of v128: i32.const 0, i8x16.splat, i8x16.popcnt
const SIMD = [
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0],
  ...[10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11],
];

/** PackageError where onnxruntime-web cannot run. */
export function checkWebAssembly() {
  if (!('WebAssembly' in globalThis))
    throw new PackageError('there is no WebAssembly here, which onnxruntime-web needs; use a browser of 2021 or later');
  if (WebAssembly.validate(Uint8Array.from(SIMD))) return;
  throw new PackageError(
    'WebAssembly has no SIMD here, which onnxruntime-web needs; use a browser of 2021 or later on a processor with ' +
      'SSE4.1 or Neon, and switch no instructions off',
  );
}

export const isNode = () =>
  typeof process !== 'undefined' && Boolean(process.versions?.node) && !('importScripts' in globalThis);
