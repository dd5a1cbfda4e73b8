/** WebGPU: what JavaScript computes beside it, and answers on Chromium's adapter in software against Python's. */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import ort from 'onnxruntime-node';
import puppeteer from 'puppeteer-core';

import { assemble } from '../assemble.js';
import { withoutDoubles } from '../src/doubles.js';
import { withoutRound } from '../src/gpu_rounding.js';
import { OptionError, load } from '../src/index.js';
import { FLOAT32, changed, readModel, writeModel } from '../src/onnx_graph.js';
import { CHROMIUM, WAIT, ask, idle, keptIn, ready, served, shownMessages, textOf, type, workersOf } from './page.js';
import { folderOf, vectors, work } from './vectors.js';

const BROWSER = fileURLToPath(new URL('../browser', import.meta.url));
const ADAPTER = ['--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];
const EXACT = 1e-4; // of the largest logit, between float32 here and there
const BEYOND = ['doge-tiny-fp32', 'bonuses', 'recent']; // whose prompts, too, are read beyond their windows
const ROUNDED = 0.05; // between float32 and Python's activations of 8 bits
/** @type {Record<string, string>} */
const TYPES = { js: 'text/javascript', mjs: 'text/javascript', wasm: 'application/wasm' };

for (const [folder, tables] of /** @type {[string, string[]][]} */ ([
  ['doge-20m-10min-int8', ['rotary.cos', 'rotary.sin']],
  ['llama', ['rotary.cos', 'sinks.cos', 'sinks.sin']],
])) {
  test(`angles of ${folder} in double precision are those of the graph`, async () => {
    const bytes = new Uint8Array(await readFile(join(folderOf(folder), 'onnx/decoder_recurrent.onnx')));
    const positions = [0, 127, 128, 129, 5000];
    const { compute, inputs } = withoutDoubles(bytes, 'decoder_recurrent.onnx');
    assert.deepEqual(inputs.filter((name) => tables.includes(name)).sort(), [...tables].sort());
    const computed = compute(positions);
    for (const [name, expected] of Object.entries(await inGraph(bytes, tables, positions, folder))) {
      const found = Float32Array.from(/** @type {any} */ (computed.get(name)).values);
      assert.equal(found.length, expected.length);
      found.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < 1e-6, `${name}[${i}]`));
    }
  });
}

test('numbers are rounded as Round does, halves to even', async () => {
  const bytes = new Uint8Array(await readFile(join(folderOf('bonuses'), 'onnx/decoder_recurrent.onnx')));
  const model = readModel(bytes, 'bonuses');
  const round = model.nodes.filter(({ opType }) => opType === 'Round').slice(0, 1);
  const [[x], [name]] = [round[0].inputs, round[0].outputs];
  const opset = { ...model, graph: [] };
  const whole = writeModel(opset, [round[0].bytes], []);
  const graph = changed(readModel(whole, name), {
    ...{ drops: () => true, nodes: [], inputs: [[x, FLOAT32]], outputs: [[name, FLOAT32]] },
  });
  const values = [
    0, 0.5, 1.5, 2.5, 0.49999997, 0.50000006, 1.4999999, 6.75, 7.25, 4194303.5, 8388609, 2e9, -1e-10, -0.5,
  ];
  const feeds = { [x]: new ort.Tensor('float32', Float32Array.of(...values, -1.5, -2.7, Infinity), [17]) };
  const found = [graph, withoutRound(graph, name)].map(async (each) => {
    const results = await (await ort.InferenceSession.create(each)).run(feeds);
    return Array.from(/** @type {Float32Array} */ (results[name].data), (value) => value + 0); // no -0
  });
  const [expected, computed] = await Promise.all(found);
  assert.ok(readModel(withoutRound(graph, name), name).nodes.every(({ opType }) => opType !== 'Round'));
  assert.deepEqual(computed, expected);
});

test('Node refuses WebGPU in a sentence', async () => {
  const options = { executionProviders: /** @type {const} */ (['webgpu']) };
  await assert.rejects(load(folderOf('native'), options), (error) => {
    assert.ok(error instanceof OptionError);
    assert.match(error.message, /which is for browsers; in Node give \["cpu"\] or \["wasm"\]/);
    return true;
  });
});

describe('Chromium', { skip: existsSync(CHROMIUM) ? false : `there is no ${CHROMIUM}` }, () => {
  /** @type {import('node:http').Server} */
  let server;
  /** @type {import('puppeteer-core').Browser} */
  let browser;
  /** @type {import('puppeteer-core').Page} */
  let page;
  let adapter = '';
  before(async () => {
    await assemble(BROWSER);
    server = await filesServer();
    browser = await puppeteer.launch({
      executablePath: CHROMIUM,
      args: ADAPTER,
      headless: true,
      protocolTimeout: WAIT.timeout,
    });
    page = await browser.newPage();
    await page.goto(`${addressOf(server)}/`);
    adapter = await page.evaluate(async () => {
      const found = await /** @type {any} */ (navigator).gpu?.requestAdapter();
      return found ? `${found.info.vendor} ${found.info.architecture}` : '';
    });
  });
  after(async () => {
    await browser?.close();
    server?.close();
  });

  /** Only where the browser gives no adapter. @param {import('node:test').TestContext} t */
  const lacksAdapter = (t) => {
    if (!adapter) t.skip(`this ${CHROMIUM} gives no WebGPU adapter, not even in software`);
    return !adapter;
  };

  test('float32 gives the logits and tokens of Python', async (t) => {
    if (lacksAdapter(t)) return;
    const [{ prompt, greedy, penalty, logits }] = vectors.folders['doge-tiny-fp32'].answers;
    const found = await answered(page, 'doge-tiny-fp32', { prompt, penalty, count: 12 });
    assert.equal(found.kernels, `onnxruntime-web on WebGPU (${adapter})`);
    assert.ok(distance(found.logits, logits) < EXACT);
    assert.deepEqual(found.tokens, greedy.slice(0, 12));
  });

  for (const name of ['doge-tiny-int8', 'doge-tiny-int4']) {
    test(`${name} gives the logits and tokens of float32 products, and Python's but for its rounding`, async (t) => {
      if (lacksAdapter(t)) return;
      const [{ prompt, penalty, logits }] = vectors.folders[name].answers;
      const found = await answered(page, name, { prompt, penalty, count: 8 });
      const wasm = await inWebAssembly(name, prompt, penalty, 8);
      t.diagnostic(`from Python: ${distance(found.logits, logits)}`);
      t.diagnostic(`from WebAssembly: ${distance(found.logits, wasm.logits)}`);
      assert.ok(distance(found.logits, wasm.logits) < EXACT);
      assert.deepEqual(found.tokens, wasm.tokens);
      assert.ok(distance(found.logits, logits) < ROUNDED);
    });
  }

  test('a state of Python that fills its window goes on with the same tokens, and is saved for Python', async (t) => {
    if (lacksAdapter(t)) return;
    const { file, tokens, penalty } = vectors.folders['doge-tiny-fp32'].states[1];
    const found = await answered(page, 'doge-tiny-fp32', { file, penalty, count: tokens.length });
    assert.deepEqual(found.tokens, tokens);
    const expected = await goneOn(await readFile(join(work, file)), penalty, tokens.length);
    assert.deepEqual(await goneOn(found.saved, penalty), expected);
  });

  for (const name of [...BEYOND, 'llama', 'llama-attention-rotates', 'small-doge', 'experts', 'window-512']) {
    test(`a state of ${name} that is beyond its window goes on with the tokens of Python`, async (t) => {
      if (lacksAdapter(t)) return;
      const { file, tokens, penalty } = vectors.folders[name].states[2];
      const found = await answered(page, name, { file, penalty, count: 12 });
      assert.deepEqual(found.tokens, tokens.slice(0, 12));
    });
  }

  for (const adapter of ['legal', 'support']) {
    test(`the adapter ${adapter} gives the logits and tokens of Python, and its state goes on`, async (t) => {
      if (lacksAdapter(t)) return;
      const [within, beyond] = vectors.adapters.adapters[adapter];
      const penalty = 10; // as tests/javascript/adapters.py has it
      const found = await answered(page, 'adapters', { prompt: within.prompt, adapter, penalty, count: 4 });
      assert.ok(distance(found.logits, within.logits) < EXACT);
      assert.deepEqual(found.tokens, within.tokens.slice(0, 4));
      const { file, going_on: tokens } = beyond;
      const goneOn = await answered(page, 'adapters', { file, prompt: [7], adapter, penalty, count: 4 });
      assert.deepEqual(goneOn.tokens, tokens.slice(0, 4));
    });
  }

  for (const name of BEYOND) {
    test(`a prompt beyond the window of ${name} evicts keys as in Python`, async (t) => {
      if (lacksAdapter(t)) return;
      const { prompt, greedy, penalty, logits } = vectors.folders[name].answers[2];
      const found = await answered(page, name, { prompt, penalty, count: 4 });
      assert.ok(distance(found.logits, logits) < EXACT);
      assert.deepEqual(found.tokens, greedy.slice(0, 4));
    });
  }

  test('a conversation of the page goes on by WebGPU, which opens offline too', async (t) => {
    if (lacksAdapter(t)) return;
    const [pages, address] = await served(folderOf('doge-tiny-fp32'));
    const other = await browser.newPage();
    await other.goto(address);
    await ready(other);
    await other.evaluate(async () => {
      await navigator.serviceWorker.ready;
    });
    await other.click('#sampling');
    await ask(other, 'Hello!');
    const before = await shownMessages(other);
    await other.select('#provider', 'webgpu');
    await other.waitForFunction(() => document.querySelector('#status')?.textContent?.includes('WebGPU'), WAIT);
    await ready(other);
    assert.match(
      await textOf(other, '#status'),
      /^onnxruntime-web on WebGPU \(google swiftshader\); remembers 128 tokens/,
    );
    assert.deepEqual(await shownMessages(other), before);
    assert.match(other.url(), /provider=webgpu/);
    assert.equal(workersOf(other), 1); // the former one is gone, with its heap
    await type(other, 'Why?');
    await other.waitForFunction(
      () => /^\d+\.\d tokens\/s/.test(document.querySelector('#speed')?.textContent ?? ''),
      WAIT,
    );
    await other.click('#stop');
    await idle(other);
    assert.ok((await shownMessages(other))[3].length > 0);
    const kept = async () => (await keptIn(other, 'doge-export-page')).some((url) => url.endsWith('asyncify.wasm'));
    for (let tries = 0; tries < 100 && !(await kept()); tries++) await new Promise((done) => setTimeout(done, 100));
    assert.ok(await kept());
    pages.kill();
    await other.reload();
    await ready(other);
    assert.match(await textOf(other, '#status'), /WebGPU/);
    await other.close();
  });

  test('a state in 8 bits is refused in a sentence', async (t) => {
    if (lacksAdapter(t)) return;
    await assert.rejects(
      answered(page, 'doge-tiny-fp32-kv-int8', { prompt: [1], penalty: 1, count: 1 }),
      /the state of this folder is in 8 bits, which attention on WebGPU does not read/,
    );
  });

  test('a provider that cannot load the model leaves the page to the former one', async (t) => {
    if (lacksAdapter(t)) return;
    const [pages, address] = await served(folderOf('doge-tiny-fp32-kv-int8'));
    const other = await browser.newPage();
    await other.goto(address);
    await ready(other);
    await other.select('#provider', 'webgpu');
    await other.waitForSelector('#error:not([hidden])', WAIT);
    assert.match(await textOf(other, '#error'), /in 8 bits, which attention on WebGPU does not read/);
    assert.equal(await other.$eval('#provider', (element) => /** @type {any} */ (element).value), 'wasm');
    assert.equal(workersOf(other), 1);
    await ask(other, 'Hello!');
    await other.close();
    pages.kill();
  });

  test('a device that is lost is named, and not the folder', async (t) => {
    if (lacksAdapter(t)) return;
    const other = await browser.newPage();
    await other.goto(`${addressOf(server)}/`);
    const message = await other.evaluate(
      async (address) => {
        const { load } = await import(/** @type {any} */ ('/browser/index.js'));
        const model = await load(address, { executionProviders: ['webgpu'], cache: null });
        await model.generate([1], { maxNewTokens: 1 });
        model.decoder.backend.device.destroy();
        return model.generate([1], { maxNewTokens: 1 }).then(
          () => 'an answer',
          (/** @type {Error} */ error) => error.message,
        );
      },
      `${addressOf(server)}/vectors/doge-tiny-fp32`,
    );
    assert.match(message, /^the GPU failed \(the device is lost.*\); load the page again, or take WebAssembly/);
    await other.close();
  });

  test('a browser without an adapter says so', async () => {
    const other = await browser.newPage();
    await other.goto(`${addressOf(server)}/`);
    await other.evaluate(() => {
      const gpu = /** @type {any} */ (navigator).gpu;
      Object.defineProperty(gpu, 'requestAdapter', { value: async () => null });
    });
    await assert.rejects(
      answered(other, 'native', { prompt: [1], penalty: 1, count: 1 }),
      /this browser finds no GPU that it may use; take WebAssembly, which is executionProviders: \["wasm"\]/,
    );
    await other.close();
  });
});

/**
 * Of a model by WebGPU: logits behind a prompt and tokens, or how a state goes on.
 * @param {import('puppeteer-core').Page} page @param {string} folder
 * @param {{prompt?: number[], file?: string, adapter?: string, penalty: number, count: number}} task
 */
async function answered(page, folder, task) {
  const found = await page.evaluate(
    async (address, { prompt, file, adapter, penalty, count }) => {
      const { load } = await import(/** @type {any} */ ('/browser/index.js'));
      const base = await load(address, { executionProviders: ['webgpu'], cache: null });
      const model = adapter ? await base.withAdapter(adapter) : base;
      const options = { temperature: 0, repetitionPenalty: penalty, ignoreEos: true, maxNewTokens: count };
      try {
        let state = model.newState();
        let logits = [];
        if (file) state = model.loadState(new Uint8Array(await (await fetch(`/vectors/${file}`)).arrayBuffer()));
        else logits = [...(await model.decoder.forward(state.copy(), prompt))[0]];
        const { tokenIds } = await model.generate(prompt ?? '', { ...options, state });
        return { kernels: model.decoder.backend.kernels, logits, tokens: tokenIds, saved: [...state.save()] };
      } finally {
        await base.dispose();
      }
    },
    `${new URL(page.url()).origin}/vectors/${folder}`,
    task,
  );
  return { ...found, saved: Uint8Array.from(found.saved) };
}

/** @param {string} folder @param {number[]} prompt @param {number} penalty @param {number} count */
async function inWebAssembly(folder, prompt, penalty, count) {
  const model = await load(folderOf(folder), { executionProviders: ['wasm'], threads: 1 });
  const logits = (await model.logits(prompt))[prompt.length - 1];
  const options = { temperature: 0, repetitionPenalty: penalty, ignoreEos: true, maxNewTokens: count };
  const { tokenIds } = await model.generate(prompt, options);
  await model.dispose();
  return { logits: [...logits], tokens: tokenIds };
}

/** Tokens behind a state file, after those of which the file knows nothing. @param {Uint8Array} bytes @param {number} penalty @param {number} [first] */
async function goneOn(bytes, penalty, first = 0) {
  const model = await load(folderOf('doge-tiny-fp32'), { executionProviders: ['cpu'], threads: 1 });
  const options = { temperature: 0, repetitionPenalty: penalty, ignoreEos: true, maxNewTokens: first + 10 };
  const { tokenIds } = await model.generate('', { ...options, state: model.loadState(bytes) });
  await model.dispose();
  return tokenIds.slice(first);
}

/** The largest difference, as a part of the largest logit. @param {number[]} found @param {number[]} expected */
function distance(found, expected) {
  const largest = Math.max(...expected.map(Math.abs));
  return Math.max(...expected.map((logit, i) => Math.abs(logit - found[i]))) / largest;
}

/**
 * Tables of a graph as onnxruntime-node computes them.
 * @param {Uint8Array} bytes @param {string[]} tables @param {number[]} positions @param {string} folder
 * @returns {Promise<Record<string, Float32Array>>}
 */
async function inGraph(bytes, tables, positions, folder) {
  const outputs = /** @type {[string, number][]} */ (tables.map((name) => [name, FLOAT32]));
  const model = readModel(bytes, folder);
  const wanted = new Set(tables);
  const makers = model.nodes.toReversed().filter(({ inputs, outputs: [first] }) => {
    if (wanted.has(first)) inputs.forEach((name) => wanted.add(name));
    return wanted.has(first);
  });
  const part = writeModel(
    model,
    makers.toReversed().map((each) => each.bytes),
    model.initializers.filter(({ name }) => wanted.has(name)).map((each) => each.bytes),
  );
  const graph = changed(readModel(part, folder), { drops: () => true, nodes: [], inputs: [], outputs });
  const session = await ort.InferenceSession.create(graph);
  const long = (/** @type {number[]} */ values, /** @type {number[]} */ dims) =>
    new ort.Tensor('int64', BigInt64Array.from(values, BigInt), dims);
  /** @type {Record<string, import('onnxruntime-node').Tensor>} */
  const feeds = {};
  for (const [i, name] of session.inputNames.entries()) {
    const { type, shape } = /** @type {any} */ (session.inputMetadata[i]);
    const dims = shape.map((/** @type {unknown} */ size) => (typeof size === 'number' && size > 0 ? size : 1));
    const count = dims.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1);
    if (name === 'position_ids') feeds[name] = long(positions, [1, positions.length]);
    else if (type === 'int64') feeds[name] = long(Array(count).fill(0), dims);
    else feeds[name] = new ort.Tensor(type, new (type === 'int32' ? Int32Array : Float32Array)(count), dims);
  }
  const results = await session.run(feeds);
  return Object.fromEntries(tables.map((name) => [name, /** @type {Float32Array} */ (results[name].data)]));
}

/** The package and the vectors. */
async function filesServer() {
  const made = createServer(async ({ url }, response) => {
    const [, first, ...rest] = String(url).split('/');
    const folder = { browser: BROWSER, vectors: work }[first];
    const bytes = folder ? await readFile(join(folder, ...rest)).catch(() => null) : Buffer.from('<p>empty');
    if (!bytes) return response.writeHead(404).end();
    const type = folder ? (TYPES[String(url).split('.').at(-1) ?? ''] ?? 'application/octet-stream') : 'text/html';
    response.setHeader('Content-Type', type);
    response.end(bytes);
  });
  await new Promise((resolve) => {
    made.listen(0, '127.0.0.1', () => resolve(null));
  });
  return made;
}

/** @param {import('node:http').Server} server */
function addressOf(server) {
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  return `http://127.0.0.1:${port}`;
}
