/** Where the package runs. */

export const isNode = () =>
  typeof process !== 'undefined' && Boolean(process.versions?.node) && !('importScripts' in globalThis);
