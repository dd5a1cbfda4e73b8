/** The answers of Python's runtime, which tests/javascript/write_vectors.py writes. */

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

export const work = resolve(process.env.DOGE_VECTORS ?? new URL('../../.javascript', import.meta.url).pathname);
/** @type {{cases: Record<string, any[]>, folders: Record<string, any>, adapters: Record<string, Record<string, any[]>>, talks: any[]}} */
export const vectors = JSON.parse(readFileSync(`${work}/vectors.json`, 'utf-8'));

/** @param {string} name */
export const folderOf = (name) => `${work}/${name}`;

/** Options as Python names them. @param {Record<string, any>} options */
export function camelCase(options) {
  const renamed = Object.entries(options).map(([name, value]) => [
    name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase()),
    value,
  ]);
  return Object.fromEntries(renamed);
}
