/** Folders on the web: the copy for offline use, updates that go wrong, and browsers that keep nothing. */

import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';

import { PackageError, load } from '../src/index.js';
import { folderOf } from './vectors.js';

const [OLD, NEW] = ['native', 'doge-tiny-fp32'];
const DATA = 'onnx/model.onnx_data';
const [LEGAL, SUPPORT] = ['adapters/legal.onnx_adapter', 'adapters/support.onnx_adapter'];
const LONG = { maxNewTokens: 200, ignoreEos: true, temperature: 0 }; // beyond the window
const GRAPHS = ['onnx/decoder.onnx', 'onnx/decoder_recurrent.onnx', 'onnx/decoder_draft.onnx'];

/** The browser's cache storage in memory. `refuses` says which addresses cannot be kept. */
class FakeCaches {
  /** @type {Map<string, {body: ArrayBuffer, type: string | null}>} */
  kept = new Map();
  refuses = (/** @type {string} */ _url) => false;
  opens = true;

  async open() {
    if (!this.opens) throw new Error('The operation is insecure.');
    const { kept } = this;
    return {
      match: async (/** @type {string} */ url) => {
        const found = kept.get(url);
        return found && new Response(found.body.slice(0), { headers: { 'Content-Type': found.type ?? '' } });
      },
      put: async (/** @type {string} */ url, /** @type {Response} */ response) => {
        if (this.refuses(url)) throw new Error('Quota exceeded.');
        kept.set(url, { body: await response.arrayBuffer(), type: response.headers.get('Content-Type') });
      },
      delete: async (/** @type {string} */ url) => kept.delete(url),
      keys: async () => [...kept.keys()].map((url) => ({ url })),
    };
  }
}

describe('a folder on the web', () => {
  /** @type {FakeCaches} */
  let caches;
  /** @type {Map<string, Buffer>} */
  let files;
  /** @type {string[]} */
  let asked;
  /** @type {import('node:http').Server} */
  let server;
  let address = '';
  let breaksOff = '';
  let fails = 0; // with this status
  const warn = console.warn;
  /** @type {string[]} */
  let warnings;

  beforeEach(async () => {
    [asked, warnings, breaksOff, fails, files] = [[], [], '', 0, await contentOf(OLD)];
    caches = new FakeCaches();
    Object.assign(globalThis, { caches });
    console.warn = (text) => warnings.push(text);
    server = createServer(({ url }, response) => {
      const file = String(url).slice('/model/'.length);
      asked.push(file);
      const bytes = files.get(file);
      if (fails) return response.writeHead(fails).end();
      if (!bytes) return response.writeHead(404).end();
      response.setHeader('Content-Length', bytes.length);
      if (file !== breaksOff) return response.end(bytes);
      response.write(bytes.subarray(0, bytes.length / 2), () => setTimeout(() => response.destroy(), 50));
    });
    address = await listening(server);
  });
  afterEach(() => {
    console.warn = warn;
    Reflect.deleteProperty(globalThis, 'caches');
    stop(server);
  });

  const opened = (options = {}) =>
    load(`${address}/model`, { executionProviders: /** @type {const} */ (['wasm']), threads: 1, ...options });
  /** @param {import('../src/index.js').Model} model */
  const vocabSize = async (model) => {
    const size = model.decoder.vocabSize;
    await model.dispose();
    return size;
  };
  /** @param {import('../src/index.js').Model} model */
  const logitsOf = async (model) => {
    const rows = await model.logits([5, 6]);
    await model.dispose();
    return rows;
  };
  const sizeOf = async (/** @type {string} */ name) =>
    vocabSize(await load(folderOf(name), { executionProviders: ['cpu'] }));
  const timesAsked = (/** @type {string} */ file) => asked.filter((each) => each === file).length;

  test('is asked for its weights once, and goes on without the network', async () => {
    for (let i = 0; i < 2; i++) await (await opened()).dispose();
    assert.deepEqual([timesAsked(DATA), timesAsked(GRAPHS[0])], [1, 2]);
    stop(server);
    const model = await opened();
    assert.deepEqual([model.unkept, warnings], [null, []]);
    assert.ok(model.hasChatTemplate);
    assert.equal((await model.generate(Array(200).fill(5), { maxNewTokens: 3, ignoreEos: true })).completionTokens, 3);
    await model.dispose();
  });

  test('a server that fails leaves the copy, which is then used; without one its answer is told', async () => {
    fails = 503;
    await assert.rejects(opened(), { name: 'PackageError', message: /the server answers 503 Service Unavailable$/ });
    fails = 0;
    const before = await logitsOf(await opened());
    for (const status of [500, 503]) {
      fails = status;
      assert.deepEqual(await logitsOf(await opened()), before);
    }
    fails = 403;
    await assert.rejects(opened(), { name: 'PackageError', message: /the server answers 403 Forbidden$/ });
  });

  /** @type {[string, (now: Map<string, Buffer>) => void, RegExp][]} */
  const broken = [
    ['one graph', (now) => files.set(GRAPHS[0], read(now, GRAPHS[0])), /is damaged, or of another export/],
    [
      'graphs alone',
      (now) => GRAPHS.forEach((file) => files.set(file, read(now, file))),
      /model\.onnx_data is damaged/,
    ],
    ['all but a file', (now) => (files = now) && files.delete('config.json'), /config\.json is missing/],
    ['no graphs', () => files.delete(GRAPHS[0]), /decoder\.onnx is missing/],
  ];
  for (const [name, update, message] of broken) {
    test(`an update of ${name} ends in a sentence, and leaves the copy as it was`, async () => {
      await (await opened()).dispose();
      update(await contentOf(NEW));
      await assert.rejects(opened(), (error) => error instanceof PackageError && message.test(error.message));
      stop(server);
      assert.equal(await vocabSize(await opened()), await sizeOf(OLD));
    });
  }

  for (const file of [DATA, 'tokenizer.json']) {
    test(`an update that breaks off in ${file} leaves the copy, which is then used`, async () => {
      const before = await logitsOf(await opened());
      [files, breaksOff] = [await contentOf(NEW), file];
      assert.deepEqual(await logitsOf(await opened()), before);
      breaksOff = '';
      const after = await logitsOf(await opened());
      assert.notDeepEqual(after, before);
      assert.equal([...caches.kept.keys()].filter((url) => url.includes(DATA)).length, 1);
      stop(server);
      assert.deepEqual(await logitsOf(await opened()), after);
    });
  }

  test('a download that breaks off before there is a copy keeps nothing', async () => {
    breaksOff = DATA;
    await assert.rejects(opened(), /model\.onnx_data (cannot be loaded|ended after)/);
    assert.equal(caches.kept.size, 0);
  });

  test('its second graph is the one that was checked, whatever the server has by then', async () => {
    const model = await opened();
    files = await contentOf(NEW);
    assert.equal((await model.generate(Array(200).fill(5), { maxNewTokens: 3, ignoreEos: true })).completionTokens, 3);
    assert.equal(timesAsked(GRAPHS[1]), 1);
    caches.kept.clear(); // as another page's update would do
    await model.dispose();
    const other = await opened();
    [files] = [await contentOf(OLD), caches.kept.clear()];
    await assert.rejects(other.prefill(Array(200).fill(5)), /model\.onnx_data is damaged, or of another export/);
    await other.dispose();
  });

  test('weights that graphs cannot tell from others are asked for anew, and kept for offline use', async () => {
    for (const file of GRAPHS) {
      const text = read(files, file).toString('latin1').replace('doge_export.data', 'doge_export.none');
      files.set(file, Buffer.from(text, 'latin1'));
    }
    files.delete('export_report.json');
    const first = await (await opened()).logits([5]);
    files.set(DATA, Buffer.from(read(files, DATA)).fill(0, 0, 4096));
    const second = await (await opened()).logits([5]);
    assert.equal(timesAsked(DATA), 2);
    assert.notDeepEqual(first, second);
    stop(server);
    assert.deepEqual(await (await opened()).logits([5]), second);
  });

  test('weights that the browser does not keep stay in memory', async () => {
    caches.refuses = (url) => url.includes(DATA);
    const model = await opened();
    assert.match(String(model.unkept), /does not keep them \(Quota exceeded\)/);
    assert.match(warnings.join(), /not there for offline use/);
    stop(server);
    assert.equal((await model.generate(Array(200).fill(5), { maxNewTokens: 3, ignoreEos: true })).completionTokens, 3);
    await model.dispose();
    await assert.rejects(opened(), PackageError);
  });

  test('an adapter is asked for with its first use, and is there without the network from then on', async () => {
    files = await contentOf('adapters');
    const model = await opened();
    assert.deepEqual(model.adapters, ['legal', 'support']);
    assert.ok(!asked.some((file) => file.includes('adapter')));
    const { tokenIds } = await model.generate([5, 6], { adapter: 'legal', ...LONG });
    await model.dispose();
    assert.deepEqual([timesAsked(LEGAL), timesAsked(SUPPORT)], [1, 0]);
    stop(server);
    const offline = await opened();
    assert.deepEqual((await offline.generate([5, 6], { adapter: 'legal', ...LONG })).tokenIds, tokenIds);
    const lacks = /support\.onnx_adapter is not in the copy that the browser keeps/;
    await assert.rejects(offline.generate([5], { adapter: 'support' }), { name: 'PackageError', message: lacks });
    await offline.dispose();
  });

  test('a connection that is lost leaves the adapters that were used, and an update asks for them anew', async () => {
    files = await contentOf('adapters');
    for (const _ of [1, 2]) await (await (await opened()).withAdapter('legal')).logits([5]);
    assert.equal(timesAsked(LEGAL), 2);
    const model = await opened();
    stop(server);
    assert.equal((await model.generate([5], { adapter: 'legal', ...LONG })).completionTokens, LONG.maxNewTokens);
    await model.dispose();
  });

  test('adapters that do not fit are not kept, and those of a former base go with it', async () => {
    files = await contentOf('adapters');
    const keeps = (/** @type {string} */ file) => [...caches.kept.keys()].some((url) => url.includes(file));
    files.set(SUPPORT, read(files, SUPPORT).subarray(0, 999));
    const model = await opened();
    await model.logits([5], { adapter: 'legal' });
    await assert.rejects(model.logits([5], { adapter: 'support' }), /adapters\/support\.onnx_adapter is no adapter/);
    assert.deepEqual([keeps(LEGAL), keeps(SUPPORT)], [true, false]);
    await model.dispose();
    files = await contentOf(NEW);
    await (await opened()).dispose();
    assert.deepEqual([keeps('adapter'), keeps(DATA)], [false, true]);
  });

  test('a program adds an adapter by its address', async () => {
    files = await contentOf('adapters');
    const model = await opened();
    await model.addAdapter('new', `${address}/model/${LEGAL}`);
    assert.deepEqual(await model.logits([5], { adapter: 'new' }), await model.logits([5], { adapter: 'legal' }));
    const gone = `${address}/model/adapters/gone.onnx_adapter`;
    await assert.rejects(model.addAdapter('gone', gone), /gone\.onnx_adapter is missing; give an adapter file/);
    assert.deepEqual(model.adapters, ['legal', 'support', 'new']);
    await model.dispose();
  });

  test('a copy that has lost its weights says so', async () => {
    await (await opened()).dispose();
    for (const url of caches.kept.keys()) if (url.includes(DATA)) caches.kept.delete(url);
    stop(server);
    await assert.rejects(opened(), {
      name: 'PackageError',
      message: /_data is not in the copy that the browser keeps/,
    });
  });

  test('a browser that refuses its cache storage opens the folder all the same', async () => {
    caches.opens = false;
    const model = await opened();
    assert.match(String(model.unkept), /The operation is insecure/);
    await model.dispose();
  });

  test('an address that is no UTF-8 ends in a sentence', async () => {
    const bad = load(`${address}/%zz`, { executionProviders: ['wasm'] });
    await assert.rejects(bad, { name: 'PackageError', message: /%zz\/onnx\/decoder\.onnx is missing/ });
  });

  test('an aborted download ends with its reason, and keeps nothing', async () => {
    const controller = new AbortController();
    const onProgress = (/** @type {{file: string}} */ { file }) => file === DATA && controller.abort();
    await assert.rejects(opened({ onProgress, signal: controller.signal }), { name: 'AbortError' });
    assert.equal(caches.kept.size, 0);
  });
});

/** The files of a folder. @param {string} name @returns {Promise<Map<string, Buffer>>} */
async function contentOf(name) {
  const found = await readdir(folderOf(name), { recursive: true, withFileTypes: true });
  const paths = found.filter((each) => each.isFile()).map((each) => join(each.parentPath, each.name));
  const entries = paths.map(async (path) => [path.slice(folderOf(name).length + 1), await readFile(path)]);
  return new Map(/** @type {[string, Buffer][]} */ (await Promise.all(entries)));
}

/** @param {Map<string, Buffer>} files @param {string} file */
function read(files, file) {
  const bytes = files.get(file);
  assert.ok(bytes, file);
  return bytes;
}

/** @param {import('node:http').Server} server @returns {Promise<string>} its address */
async function listening(server) {
  await new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve(null));
  });
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  return `http://127.0.0.1:${port}`;
}

/** @param {import('node:http').Server} server */
function stop(server) {
  server.close();
  server.closeAllConnections();
}
