/** The page in headless Chromium: it chats, stops, saves, reloads, goes on, and works offline. */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import puppeteer from 'puppeteer-core';

import { assemble } from '../assemble.js';
import { Conversation, load } from '../src/index.js';
import { CHROMIUM, ROOT, WAIT, ask, idle, keptIn, ready, served, shownMessages, textOf, type } from './page.js';
import { folderOf } from './vectors.js';

const NAME = 'doge-20m-10min-int8';
const [FIRST, SECOND] = ['What is water?', 'Why?'];

describe('the page', { skip: existsSync(CHROMIUM) ? false : `there is no ${CHROMIUM}` }, () => {
  /** @type {import('node:child_process').ChildProcess} */
  let server;
  /** @type {import('puppeteer-core').Browser} */
  let browser;
  /** @type {import('puppeteer-core').Page} */
  let page;
  let address = '';
  let downloads = '';
  /** @type {string[]} */
  let expected = [];

  before(async () => {
    await assemble(join(ROOT, 'javascript/browser'));
    downloads = await mkdtemp(join(tmpdir(), 'doge-page-'));
    [server, address] = await served(folderOf(NAME));
    browser = await puppeteer.launch({
      executablePath: CHROMIUM,
      args: ['--no-sandbox', '--js-flags=--expose-gc'],
      headless: true,
    });
    page = await browser.newPage();
    const session = await browser.target().createCDPSession();
    await session.send('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath: downloads });
    expected = await answersInNode();
  });
  after(async () => {
    await browser?.close();
    server?.kill();
    await rm(downloads, { recursive: true, force: true });
  });

  test('loads the model with a thread that the headers allow', async () => {
    await page.goto(`${address}&threads=2`);
    await ready(page);
    await page.evaluate(async () => {
      await navigator.serviceWorker.ready;
    });
    assert.equal(await textOf(page, '#name'), NAME);
    assert.match(await textOf(page, '#status'), /^2 threads; remembers 2,048 tokens$/);
  });

  test('answers as Node does', async () => {
    await page.click('#sampling');
    assert.equal(await ask(page, FIRST), expected[0]);
    assert.match(await textOf(page, '#speed'), /^\d+\.\d tokens\/s, \d+ tokens$/);
  });

  test('saves, reloads and goes on', async () => {
    await page.click('#save');
    const bytes = await downloaded(downloads);
    await page.reload();
    await ready(page);
    const input = /** @type {import('puppeteer-core').ElementHandle<HTMLInputElement>} */ (await page.$('#file'));
    await input.uploadFile(bytes);
    await page.waitForFunction(() => document.querySelectorAll('#messages p').length === 2, WAIT);
    assert.deepEqual(await shownMessages(page), [FIRST, expected[0]]);
    await page.click('#sampling');
    assert.equal(await ask(page, SECOND), expected[1]);
  });

  test('the focus stays in the field, and messages name who speaks', async () => {
    await page.focus('#question');
    await type(page, 'And then?');
    const focused = () => page.evaluate(() => document.activeElement?.id);
    assert.equal(await focused(), 'question');
    await idle(page);
    assert.equal(await focused(), 'question');
    const speakers = await page.$$eval('#messages .speaker', (found) => found.map(({ textContent }) => textContent));
    assert.deepEqual(speakers, Array(3).fill(['You', NAME]).flat());
    assert.equal(await page.$eval('#messages', ({ role }) => role), 'log');
  });

  test('stops an answer, and goes on behind it', async () => {
    await page.click('#reset');
    await page.waitForFunction(() => document.querySelectorAll('#messages p').length === 0, WAIT);
    await type(page, 'Tell me a long story.');
    await page.waitForFunction(() => (document.querySelector('.assistant')?.textContent ?? '').length > 10, WAIT);
    await page.click('#stop');
    await idle(page);
    assert.ok((await shownMessages(page))[1].length > 10);
    assert.ok((await ask(page, 'Why?')).length > 0);
  });

  test('a question that is stopped before its answer goes back to where it was written', async () => {
    const [before, count] = [await shownMessages(page), await tokensShown(page)];
    const long = 'water '.repeat(1500).trim();
    await page.$eval('#question', (box, text) => Object.assign(box, { value: text }), long);
    await page.focus('#question');
    await page.keyboard.press('Enter');
    await page.waitForFunction((shown) => document.querySelectorAll('#messages p').length > shown, WAIT, before.length);
    await new Promise((resolve) => {
      setTimeout(resolve, 200); // part of it is fed
    });
    await page.click('#stop');
    await idle(page);
    assert.deepEqual(await shownMessages(page), before);
    assert.equal((await page.$$('#messages .speaker')).length, before.length);
    assert.ok((await tokensShown(page)) <= count + 1, `${await tokensShown(page)} tokens, not ${count}`);
    assert.equal(await page.$eval('#question', (box) => /** @type {HTMLTextAreaElement} */ (box).value), long);
    await page.$eval('#question', (box) => Object.assign(box, { value: '' }));
    assert.ok((await ask(page, 'Why?')).length > 0);
  });

  test('a file that is no state ends in a sentence', async () => {
    const input = /** @type {import('puppeteer-core').ElementHandle<HTMLInputElement>} */ (await page.$('#file'));
    await input.uploadFile(join(ROOT, 'README.md'));
    await page.waitForSelector('#error:not([hidden])', WAIT);
    assert.match(await textOf(page, '#error'), /no state file or a damaged one/);
    await idle(page);
  });

  test('a download that breaks off ends in a sentence, and nothing of it is kept', async () => {
    const broken = await brokenServer(folderOf(NAME));
    const other = await browser.newPage();
    await other.goto(`${new URL(address).origin}/?model=${broken.address}`);
    await other.waitForSelector('#error:not([hidden])', WAIT);
    assert.match(await textOf(other, '#error'), /model\.onnx_data (cannot be loaded|ended after)/);
    const kept = await keptIn(other, 'doge-export');
    assert.ok(kept.length > 0);
    assert.deepEqual(
      kept.filter((url) => url.startsWith(broken.address)),
      [],
    );
    await other.close();
    broken.close();
  });

  /** @type {[string, RegExp][]} */
  const wrong = [
    ['?model=nowhere', /nowhere\/onnx\/decoder\.onnx is missing/],
    ['?model=%25zz', /%zz\/onnx\/decoder\.onnx is missing/],
    ['?model=javascript:x', /the location is "javascript:x"; it must be a URL/],
    ['?model=http://[', /the location is "http:\/\/\["; it must be a URL/],
    [`?model=model/${NAME}&threads=abc`, /threads is "abc"; it must be a whole number from 1 to 64/],
    [`?model=model/${NAME}&threads=0`, /threads is 0; it must be/],
  ];
  for (const [query, message] of wrong) {
    test(`the address ${query} ends in a sentence`, async () => {
      const other = await browser.newPage();
      await other.goto(`${new URL(address).origin}/${query}`);
      await other.waitForSelector('#error:not([hidden])', WAIT);
      assert.match(await textOf(other, '#error'), message);
      await other.close();
    });
  }

  test('a browser without SIMD says so', async () => {
    const off = '--js-flags=--no-enable-sse4-1 --no-enable-ssse3 --no-enable-avx';
    const old = await puppeteer.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', off], headless: true });
    const other = await old.newPage();
    await other.goto(address);
    await other.waitForSelector('#error:not([hidden])', WAIT);
    assert.match(await textOf(other, '#error'), /^WebAssembly has no SIMD here, which onnxruntime-web needs; [^;]+$/);
    await old.close();
  });

  test('a browser that keeps no page says so', async () => {
    const other = await browser.newPage();
    await other.evaluateOnNewDocument(() => {
      navigator.serviceWorker.register = () => Promise.reject(new Error('The operation is insecure.'));
      Object.defineProperty(globalThis, 'localStorage', {
        get() {
          throw new Error('switched off');
        },
      });
    });
    await other.goto(address);
    await ready(other);
    assert.match(
      await textOf(other, '#status'),
      /needs the network, as .* not keep the page \(The operation is insecure/,
    );
    await other.close();
  });

  test('models that come one after the other take one heap, which does not grow', async (context) => {
    const other = await browser.newPage();
    await other.goto(`${new URL(address).origin}/style.css`);
    const sizes = [];
    for (let i = 0; i < 5; i++) {
      sizes.push(await other.evaluate(round(`/model/${NAME}`)));
      context.diagnostic(`${sizes[i]} MB of heap, ${await mostMemory(browser)} MB of a page's process`);
    }
    assert.deepEqual(sizes.slice(2), Array(3).fill(sizes[1])); // the second may find the first one's room in pieces
    await other.close();
  });

  test('of all files that were asked for, the page and the package are kept, and the model by itself', async () => {
    await page.evaluate(() => fetch('serve.py').then((response) => response.status));
    const names = (await keptIn(page, 'doge-export-page')).map((url) => new URL(url).pathname.slice(1));
    const others = names.filter((name) => !name.startsWith('doge-export/')).sort();
    assert.deepEqual(others, ['index.html', 'page.js', 'style.css', 'worker.js']);
    assert.ok(names.includes('doge-export/onnxruntime/ort-wasm-simd-threaded.wasm'));
    assert.equal((await keptIn(page, 'doge-export')).length, 2);
  });

  test('works offline once it was loaded', async () => {
    server.kill();
    await page.reload();
    await ready(page);
    await page.click('#sampling');
    assert.equal(await ask(page, FIRST), expected[0]);
  });
});

/** Those that the page says the conversation has. @param {import('puppeteer-core').Page} page */
const tokensShown = async (page) =>
  Number(/([\d,]+) tokens$/.exec(await textOf(page, '#speed'))?.[1].replaceAll(',', ''));

/** A page's code: MB of the heap of a model that is loaded, used and disposed of. @param {string} url */
const round = (url) => `(async () => {
  const { load } = await import('/doge-export/index.js');
  const model = await load('${url}', { threads: 1 });
  await model.generate('Once upon a time', { maxNewTokens: 30, ignoreEos: true });
  const { heap } = model.decoder.backend;
  await model.dispose();
  for (let i = 0; i < 3; i++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return Math.round(heap.buffer.byteLength / 1e6);
})()`;

/** MB of the page's process that has the most. @param {import('puppeteer-core').Browser} browser */
async function mostMemory(browser) {
  const session = await browser.target().createCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  const pages = processInfo.filter(({ type }) => type === 'renderer');
  const found = pages.map(async ({ id }) => /VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${id}/status`, 'utf-8'))?.[1]);
  return Math.round(Math.max(...(await Promise.all(found)).map(Number)) / 1e3);
}

/** The same conversation in Node's WebAssembly. */
async function answersInNode() {
  const model = await load(folderOf(NAME), { executionProviders: ['wasm'], threads: 1 });
  const conversation = new Conversation(model);
  const texts = [];
  for (const question of [FIRST, SECOND]) {
    texts.push((await conversation.ask(question, { temperature: 0, maxNewTokens: 512 }).readAll()).text);
  }
  await model.dispose();
  return texts;
}

/** A server whose data file breaks off in the middle. @param {string} folder */
async function brokenServer(folder) {
  const server = createServer(async ({ url }, response) => {
    response.setHeader('Access-Control-Allow-Origin', '*');
    const bytes = await readFile(join(folder, String(url))).catch(() => null);
    if (!bytes) return response.writeHead(404).end();
    response.setHeader('Content-Length', bytes.length);
    if (!String(url).endsWith('_data')) return response.end(bytes);
    response.write(bytes.subarray(0, bytes.length / 2), () => setTimeout(() => response.destroy(), 200));
  });
  await new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve(null));
  });
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  return { address: `http://127.0.0.1:${port}`, close: () => server.close() };
}

/** @param {string} folder @returns {Promise<string>} the one file there */
async function downloaded(folder) {
  for (let tries = 0; tries < 600; tries++) {
    const [name] = (await readdir(folder)).filter((each) => each.endsWith('.safetensors'));
    if (name) return join(folder, name);
    await new Promise((resolve) => {
      setTimeout(resolve, 100);
    });
  }
  throw new Error('nothing was downloaded');
}
