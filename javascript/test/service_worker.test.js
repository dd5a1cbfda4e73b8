/** The page's service worker in a scope of its own, where the network and the cache do as they are told. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { createContext, runInContext } from 'node:vm';

const SOURCE = await readFile(new URL('../../examples/browser/service_worker.js', import.meta.url), 'utf-8');
const HOME = 'http://127.0.0.1:8000/';

/** What a request of the page leads to. @param {string} url @param {{online?: boolean, putFails?: boolean, status?: number}} [ways] */
async function asked(url, { online = true, putFails = false, status = 200 } = {}) {
  /** @type {Record<string, (event: any) => void>} */
  const listeners = {};
  /** @type {string[]} */
  const kept = [];
  const cache = {
    match: async (/** @type {URL} */ address) => new Response(`kept ${address.pathname}`),
    put: async (/** @type {URL} */ address) => {
      if (putFails) throw new Error('Quota exceeded.');
      kept.push(address.pathname);
    },
  };
  const fetch = async () =>
    online ? new Response('new', { status }) : Promise.reject(new TypeError('Failed to fetch'));
  const self = { addEventListener: (/** @type {string} */ name, /** @type {any} */ f) => (listeners[name] = f) };
  const scope = { self, fetch, URL, caches: { open: async () => cache }, location: new URL('service_worker.js', HOME) };
  runInContext(SOURCE, createContext(scope));
  /** @type {Promise<Response> | null} */
  let response = null;
  /** @type {Promise<unknown>[]} */
  const waits = [];
  listeners.fetch({
    request: { method: 'GET', url: new URL(url, HOME).href },
    respondWith: (/** @type {Promise<Response>} */ given) => (response = given),
    waitUntil: (/** @type {Promise<unknown>} */ given) => waits.push(given),
  });
  const text = response && (await (await /** @type {Promise<Response>} */ (response)).text());
  return { text, kept, waits: (await Promise.allSettled(waits)).map(({ status }) => status) };
}

test('a file of the page comes from the network, and is kept', async () => {
  assert.deepEqual(await asked('page.js'), { text: 'new', kept: ['/page.js'], waits: ['fulfilled'] });
  assert.deepEqual((await asked('?model=model/a')).kept, ['/index.html']);
});

test('an answer does not fail with its copy', async () => {
  assert.deepEqual(await asked('page.js', { putFails: true }), { text: 'new', kept: [], waits: ['rejected'] });
});

test('without the network the copy serves', async () => {
  assert.equal((await asked('?model=model/a', { online: false })).text, 'kept /index.html');
  assert.equal((await asked('doge-export/index.js', { online: false })).text, 'kept /doge-export/index.js');
});

test('where the server fails the copy serves, and a file that is missing is missing', async () => {
  assert.deepEqual(await asked('page.js', { status: 503 }), { text: 'kept /page.js', kept: [], waits: [] });
  assert.deepEqual(await asked('page.js', { status: 404 }), { text: 'new', kept: [], waits: [] });
});

test('files of others are left alone', async () => {
  for (const url of ['model/a/onnx/decoder.onnx', 'serve.py', 'other/page.js', 'http://127.0.0.1:9/page.js']) {
    assert.deepEqual(await asked(url), { text: null, kept: [], waits: [] });
  }
});
