/** Streams, states, options and errors of one small model. */

import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Conversation, DogeError, OptionError, PackageError, RewindError, StateError, load } from '../src/index.js';
import { rejects } from './refusals.js';
import { folderOf } from './vectors.js';

const NAME = 'doge-tiny-fp32';
const WINDOW = 128;
const MOST_GROWTH = 1e6; // bytes
const REPORT = 'export_report.json';

const PROVIDERS = /** @type {const} */ (['cpu', 'wasm']);
for (const provider of PROVIDERS) {
  describe(`doge-tiny by ${provider}`, () => {
    /** @type {import('../src/index.js').Model} */
    let model;
    before(async () => {
      model = await load(folderOf(NAME), { executionProviders: [provider], threads: 1 });
    });
    after(() => model.dispose());

    test('pieces of a stream add up to its text', async () => {
      const stream = model.stream('Once upon a time', { maxNewTokens: 60, ignoreEos: true });
      let text = '';
      for await (const piece of stream) text += piece;
      assert.equal(text, stream.result.text);
      assert.deepEqual(stream.result, { ...stream.result, completionTokens: 60, finishReason: 'length' });
      assert.ok(stream.result.decodeTokensPerS > 0);
    });

    test('a signal ends an answer, and its state goes on', async () => {
      const state = model.newState();
      const controller = new AbortController();
      const stream = model.stream('Once upon a time', {
        state,
        ignoreEos: true,
        maxNewTokens: 1000,
        signal: controller.signal,
      });
      await assert.rejects(
        async () => {
          for await (const _ of stream) if (stream.tokenIds.length > 5) controller.abort();
        },
        { name: 'AbortError' },
      );
      const whole = await model.generate('Once upon a time', { ignoreEos: true, maxNewTokens: 20 });
      const rest = await model.generate('', { state, ignoreEos: true, maxNewTokens: 20 - stream.tokenIds.length });
      assert.deepEqual([...stream.tokenIds, ...rest.tokenIds], whole.tokenIds);
      state.dispose();
    });

    test('a timer can end an answer', async () => {
      const signal = AbortSignal.timeout(100);
      await assert.rejects(model.generate('One', { ignoreEos: true, maxNewTokens: 1e6, signal }), {
        name: 'TimeoutError',
      });
    });

    test('a long stream takes constant memory and time', { skip: !globalThis.gc }, async () => {
      const state = await model.prefill(Array(WINDOW + 1).fill(5));
      const stream = model.stream('Once', { state, ignoreEos: true, maxNewTokens: 6000, temperature: 1, seed: 1 });
      stream.collects = false;
      /** @type {{bytes: number, ms: number}[]} */
      const parts = [];
      let [fastest, before] = [Infinity, { count: 0, ms: 0 }];
      for await (const _ of stream) {
        const ms = (stream.decodeMs - before.ms) / (stream.count - before.count);
        if (before.count) fastest = Math.min(fastest, ms); // of all steps, for other work makes none faster
        before = { count: stream.count, ms: stream.decodeMs };
        if (stream.count < 1000 * (parts.length + 1)) continue;
        parts.push({ bytes: await bytesInUse(model), ms: fastest });
        fastest = Infinity;
      }
      const [early, late] = [parts[0], parts[parts.length - 1]];
      assert.ok(late.bytes - early.bytes < MOST_GROWTH, `${late.bytes - early.bytes} bytes more in 5,000 tokens`);
      assert.ok(late.ms < 1.6 * early.ms, `${early.ms} ms a token became ${late.ms}`);
      assert.deepEqual([parts.length, stream.count, stream.text, stream.tokenIds], [6, 6000, '', []]);
      state.dispose();
    });

    test('nothing that a model has in the heap is left behind', { skip: provider === 'cpu' }, async () => {
      const other = await load(folderOf(NAME), { executionProviders: ['wasm'], threads: 1 });
      await other.prefill(Array(WINDOW + 1).fill(5));
      const { module } = /** @type {any} */ (other.decoder.backend).heap;
      /** @type {string[]} */
      const released = [];
      for (const name of ['_OrtReleaseRunOptions', '_OrtReleaseSession']) {
        const release = module[name];
        module[name] = (/** @type {number} */ handle) => released.push(name) && release(handle);
      }
      await other.dispose();
      assert.deepEqual(
        released.sort().map((name) => name.slice('_OrtRelease'.length)),
        [...['RunOptions', 'RunOptions', 'Session', 'Session']],
      );
    });

    test('positions of keys and of a stream stay below their limit', async () => {
      const state = await model.prefill(Array(WINDOW + 5).fill(5));
      const { positions } = /** @type {import('../src/eviction.js').FullWindow} */ (state.window);
      const beyond = /** @type {any} */ (Array.from(positions, (position) => position + 2 ** 32));
      Object.assign(/** @type {object} */ (state.window), { positions: beyond });
      assert.throws(() => model.loadState(state.save()), /positions of its keys are impossible/);
      Object.assign(/** @type {object} */ (state.window), { positions });
      state.position = 2 ** 32 - 1;
      await rejects(model.prefill([5, 5], { state }), StateError, /4,294,967,296 tokens at most; begin a new one/);
      state.dispose();
    });

    test('a state branches and goes back within its window', async () => {
      const state = await model.prefill('Once upon a time');
      const branch = state.copy();
      const first = await model.generate(' there', { state, maxNewTokens: 5 });
      assert.deepEqual((await model.generate(' there', { state: branch, maxNewTokens: 5 })).tokenIds, first.tokenIds);
      state.truncate(3);
      assert.equal(state.position, 3);
      assert.throws(() => state.truncate(4), RewindError);
      await model.prefill(Array(WINDOW).fill(5), { state });
      assert.throws(() => state.truncate(3), RewindError);
      state.dispose();
      assert.throws(() => state.copy(), StateError);
    });

    test('two calls on one state are refused', async () => {
      const state = await model.prefill('Once');
      const both = [model.generate(' a', { state }), model.generate(' b', { state })];
      const errors = (await Promise.allSettled(both)).filter(({ status }) => status === 'rejected');
      assert.equal(errors.length, 1);
      state.dispose();
    });

    test('a state that does not fit into memory is refused', { skip: provider === 'cpu' }, async () => {
      for (const nbytes of [2 ** 32 - 2 ** 20, 5e9]) {
        assert.throws(
          () => model.decoder.backend.allocate(nbytes),
          (error) => error instanceof PackageError && /too large for the heap/.test(error.message),
        );
      }
      assert.equal((await model.generate('Once', { maxNewTokens: 2, ignoreEos: true })).completionTokens, 2);
    });

    test('states that nobody disposes of leave the heap', { skip: provider === 'cpu' || !globalThis.gc }, async () => {
      const sizes = [];
      for (let i = 0; i < 60; i++) {
        const state = await model.prefill('Once upon a time');
        await model.generate(' there', { state, maxNewTokens: 2 });
        globalThis.gc?.();
        await new Promise((resolve) => {
          setTimeout(resolve, 2);
        });
        sizes.push(model.decoder.backend.allocate(1).bytes().buffer.byteLength);
      }
      assert.equal(sizes[59], sizes[20]);
    });

    test('a list of prompts gives the results of each, with seeds one after the other', async () => {
      const options = { temperature: 1, seed: 7, maxNewTokens: 8 };
      const [text, ids] = await model.generate(['Once upon', [5, 6]], options);
      const [typed] = await model.generate([Int32Array.of(5, 6)], { ...options, seed: 8 });
      assert.deepEqual(typed.tokenIds, ids.tokenIds);
      assert.equal(text.text, (await model.generate('Once upon', options)).text);
      assert.deepEqual(ids.tokenIds, (await model.generate([5, 6], { ...options, seed: 8 })).tokenIds);
      const state = await model.prefill('Once');
      await rejects(model.generate(['One'], { state }), OptionError, /a list of prompts takes no state/);
      state.dispose();
    });

    test('stop strings end an answer', async () => {
      const whole = await model.generate('Once upon a time', { maxNewTokens: 40, ignoreEos: true });
      const stop = whole.text.slice(10, 14);
      const found = await model.generate('Once upon a time', { maxNewTokens: 40, ignoreEos: true, stop });
      assert.deepEqual([found.text, found.finishReason], [whole.text.slice(0, whole.text.indexOf(stop)), 'stop']);
    });

    test('an answer tells the log-probabilities of its tokens, whatever other options do', async () => {
      const options = { maxNewTokens: 4, ignoreEos: true, logprobs: 2, repetitionPenalty: 3, temperature: 1, seed: 1 };
      const { tokenIds, logprobs } = await model.generate([5, 6, 7], options);
      const rows = (await model.logits([5, 6, 7, ...tokenIds])).slice(2, -1);
      assert.equal(logprobs?.length, 4);
      logprobs.forEach(({ tokenId, logprob, best }, i) => {
        assert.deepEqual([tokenId, best.length, best[0][0]], [tokenIds[i], 2, rows[i].indexOf(Math.max(...rows[i]))]);
        const total = Math.log(rows[i].reduce((sum, logit) => sum + Math.exp(logit), 0));
        assert.ok(Math.abs(logprob - (rows[i][tokenId] - total)) < 1e-4);
      });
      assert.equal((await model.generate([5], { maxNewTokens: 1 })).logprobs, null);
    });

    test('guesses that are computed otherwise than steps are no more made, and told of', async () => {
      const other = await load(folderOf('native'), { executionProviders: [provider], threads: 1 });
      const options = { maxNewTokens: 30, ignoreEos: true, temperature: 0 };
      const prompt = Array(20).fill(5);
      const plain = await other.generate(prompt, options);
      const { decoder } = other;
      const draft = decoder.draft.bind(decoder);
      decoder.draft = async (...given) => (await draft(...given)).map((row) => row.map((logit) => logit + 1));
      const [warn, warnings] = [console.warn, /** @type {string[]} */ ([])];
      console.warn = (text) => warnings.push(text);
      const found = await other.generate(prompt, { ...options, promptLookupNumTokens: 7 });
      console.warn = warn;
      assert.deepEqual(found.tokenIds, plain.tokenIds);
      assert.ok(found.draftedTokens > 0 && found.draftedTokens <= 7);
      assert.match(warnings.join(), /^prompt lookup is off: /);
      await other.dispose();
    });

    test('wrong prompts and options end in one sentence', async () => {
      /** @type {[any, any, RegExp][]} */
      const wrong = [
        ['', {}, /the prompt is empty/],
        [[], {}, /the prompt is empty/],
        [[1e6], {}, /from 0 to/],
        [[1.5], {}, /whole number/],
        [null, {}, /the prompt is null/],
        ['a\ud800', {}, /half a character/],
        [[{ role: 'user' }], {}, /give messages to chat/],
        ['a', null, /^the options are null; they must be an object, or be left out$/],
        [['a'], 5, /^the options are 5; they must be an object/],
        ['a', { signal: {} }, /^signal is {}; it must be the signal of an AbortController$/],
        ['a', { onPrompt: 5 }, /^onPrompt is 5; it must be a function$/],
        ['a', { temperature: -1 }, /temperature is -1; it must be/],
        ['a', { topK: true }, /topK is true/],
        ['a', { topp: 1 }, /no option "topp"/],
        ['a', { stop: [''] }, /none of them empty/],
        ['a', { seed: -1 }, /seed is -1/],
        ['a', { maxNewTokens: 0 }, /at least 1/],
        ['a', { state: {} }, /state is/],
        ['a', { forcedEosTokenId: [1e6] }, /from 0 to/],
        ['a', { logitBias: { a: 1 } }, /an object of token ids and numbers/],
        ['a', { logitBias: 7 }, /an object of token ids and numbers/],
        ['a', { logitBias: { 5: NaN } }, /logitBias is NaN; it must be made of numbers up to 1000000, or -Infinity/],
        ['a', { presencePenalty: 2.5 }, /a number from -2 to 2/],
        ['a', { frequencyPenalty: '1' }, /a number from -2 to 2/],
        ['a', { promptLookupNumTokens: 8 }, /a whole number from 0 to 7/],
        ['a', { logprobs: -1 }, /logprobs is -1; it must be a whole number of at least 0, or null/],
      ];
      for (const [prompt, options, message] of wrong)
        await rejects(model.generate(prompt, options), OptionError, message);
      const state = await model.prefill('Once');
      for (const position of /** @type {any[]} */ ([1.5, '1', NaN, null, undefined])) {
        const cut = (async () => state.truncate(position))();
        await rejects(cut, OptionError, /^position is .*; it must be a whole number from 0 to \d+$/);
      }
      state.dispose();
      const given = /** @type {any} */ (null);
      for (const call of [
        () => model.stream('a', given),
        () => model.prefill('a', given),
        () => model.logits([5], given),
        () => model.newState(given),
        () => new Conversation(model, given),
        () => new Conversation(model).ask('a', given),
      ])
        await rejects((async () => call())(), OptionError, /^the options are null; they must be an object/);
    });

    test('wrong messages end in one sentence', async () => {
      /** @type {[any, RegExp][]} */
      const wrong = [
        [[], /non-empty list/],
        ['hello', /non-empty list/],
        [[{ role: 'user' }], /content is missing/],
        [[{ role: 'user', content: [{ type: 'image' }] }], /reads only text/],
        [[{ role: 1, content: 'a' }], /role is 1/],
      ];
      for (const [messages, message] of wrong) await rejects(model.chat(messages), OptionError, message);
      const chat = (/** @type {string} */ chatTemplate) =>
        model.chat([{ role: 'user', content: 'a' }], { chatTemplate });
      await rejects(chat('nosuch'), OptionError, /chatTemplate is "nosuch"/);
      await rejects(chat('{% for %}'), DogeError, /not valid Jinja/);
      await rejects(chat("{{ raise_exception('no roles') }}"), OptionError, /does not accept these messages: no roles/);
    });

    test('damaged states and those of others are refused', async () => {
      const state = await model.prefill('Once upon');
      const bytes = state.save();
      const damaged = bytes.slice();
      damaged[bytes.length - 1] ^= 1;
      assert.throws(
        () => model.loadState(damaged),
        (error) => error instanceof StateError && /checksum|impossible/.test(error.message),
      );
      assert.throws(() => model.loadState(bytes.subarray(0, 100)), /ends early|damaged/);
      assert.throws(() => model.loadState(new Uint8Array(0)), StateError);
      assert.throws(() => model.loadState(/** @type {any} */ ('x')), StateError);
      const other = await load(folderOf('native'), { executionProviders: ['cpu'] });
      assert.throws(() => other.loadState(bytes), /of another model/);
      await rejects(other.generate('a', { state }), StateError, /another model/);
      await other.dispose();
      state.dispose();
    });
  });
}

describe('folders that cannot be opened', () => {
  /** @type {string} */
  let work;
  before(async () => {
    work = await mkdtemp(join(tmpdir(), 'doge-'));
  });
  after(() => rm(work, { recursive: true }));

  /** A copy of the folder, spoilt. @param {string} name @param {(folder: string) => Promise<unknown>} spoil */
  async function spoilt(name, spoil) {
    const folder = join(work, name);
    await cp(folderOf(NAME), folder, { recursive: true });
    await spoil(folder);
    return folder;
  }

  /** @type {[string, (folder: string) => Promise<unknown>, RegExp][]} */
  const ways = [
    ['no-graph', (folder) => rm(join(folder, 'onnx/decoder.onnx')), /decoder\.onnx is missing/],
    ['no-data', (folder) => rm(join(folder, 'onnx/model.onnx_data')), /model\.onnx_data is missing/],
    ['short-data', (folder) => writeFile(join(folder, 'onnx/model.onnx_data'), 'x'), /damaged, or of another export/],
    ['no-onnx', (folder) => writeFile(join(folder, 'onnx/decoder.onnx'), 'no protobuf at all'), /no ONNX file/],
    [
      'mixed',
      (folder) =>
        cp(join(folderOf('native'), 'onnx/decoder_recurrent.onnx'), join(folder, 'onnx/decoder_recurrent.onnx')),
      /of another export/,
    ],
    [
      'newer',
      (folder) => edit(join(folder, 'onnx/decoder.onnx'), '"format_version": 6', '"format_version": 8'),
      /newer than this version/,
    ],
    [
      'tokenizer',
      (folder) => rm(join(folder, REPORT)).then(() => writeFile(join(folder, 'tokenizer.json'), '{"model": {}}')),
      /is not a tokenizer/,
    ],
    [
      'other-tokenizer',
      (folder) => writeFile(join(folder, 'tokenizer.json'), '{}'),
      /^tokenizer\.json has 2 bytes, but \d+ in export_report\.json, so one of the two is damaged/,
    ],
    ['no-config', (folder) => rm(join(folder, 'config.json')), /^config\.json is missing; copy the folder again/],
    ['report', (folder) => writeFile(join(folder, REPORT), '{'), /export_report\.json cannot be read as JSON/],
    ['sample', (folder) => edit(join(folder, 'onnx/decoder.onnx'), '{"bytes"', '["bytes"'), /cannot be read as JSON/],
    ['json', (folder) => writeFile(join(folder, 'generation_config.json'), '[1]'), /must hold a JSON object/],
    [
      'setting',
      (folder) => writeFile(join(folder, 'generation_config.json'), '{"top_p": 7}'),
      /not allowed: topP is 7/,
    ],
  ];
  for (const [name, spoil, message] of ways) {
    test(`${name}: ${message.source}`, async () => {
      await rejects(load(await spoilt(name, spoil)), PackageError, message);
    });
  }

  test('a folder that is not there, and options that load does not have', async () => {
    await rejects(load(join(work, 'nowhere')), PackageError, /there is no folder/);
    await rejects(load('someone/model'), PackageError, /hf download someone\/model --local-dir FOLDER/);
    await rejects(load(folderOf(NAME), /** @type {any} */ ({ thread: 1 })), OptionError, /no option "thread"/);
    await rejects(load(folderOf(NAME), { threads: 0 }), OptionError, /threads is 0/);
    await rejects(
      load(folderOf(NAME), /** @type {any} */ ({ executionProviders: ['cuda'] })),
      OptionError,
      /it must be \["cpu"\]/,
    );
    await rejects(load('http://[/model'), OptionError, /it must be a URL/);
    for (const given of [{ executionProviders: null }, { ort: {} }, { signal: {} }, { onProgress: 5 }, null])
      await rejects(
        load(folderOf(NAME), /** @type {any} */ (given)),
        OptionError,
        /(is|are) (null|{}|5); (it|they) must be/,
      );
    await rejects(load(/** @type {any} */ (undefined)), OptionError, /the location is undefined; it must be a URL/);
    await rejects(load('file://host/model'), OptionError, /it must be a URL/);
    await rejects(load('http://127.0.0.1:9/model', { executionProviders: ['wasm'] }), PackageError, /cannot be loaded/);
  });

  test('a folder that is replaced while its model is used is noticed', async () => {
    const folder = await spoilt('replaced', async () => {});
    const models = await Promise.all(
      PROVIDERS.map((provider) => load(folder, { executionProviders: [provider], threads: 1 })),
    );
    await cp(folderOf('native'), folder, { recursive: true });
    for (const model of models) {
      await rejects(
        model.prefill(Array(WINDOW + 1).fill(5)),
        PackageError,
        /model\.onnx_data is damaged, or of another/,
      );
      await model.dispose();
    }
  });

  test('a folder without a tokenizer takes token ids', async () => {
    const without = (/** @type {string} */ folder) =>
      Promise.all([REPORT, 'tokenizer.json'].map((file) => rm(join(folder, file))));
    const model = await load(await spoilt('ids', without));
    assert.equal((await model.generate([5, 6], { maxNewTokens: 3, ignoreEos: true })).tokenIds.length, 3);
    await rejects(model.generate('a'), PackageError, /no tokenizer\.json/);
    await model.dispose();
  });
});

/** All that garbage collection leaves, and of the heap of WebAssembly. @param {import('../src/index.js').Model} model */
async function bytesInUse(model) {
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => {
      setTimeout(resolve, 2);
    });
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external + heapInUse(/** @type {any} */ (model.decoder.backend));
}

/** Bytes of WebAssembly's heap that are not free: free ones are those that it gives out before it grows. */
function heapInUse(/** @type {{heap?: import('../src/heap.js').Heap}} */ { heap }) {
  if (!heap) return 0;
  const { module } = heap;
  const [size, block] = [heap.buffer.byteLength, 2 ** 16];
  const taken = [];
  while (heap.buffer.byteLength === size) taken.push(module._malloc(block));
  for (const at of taken) module._free(at);
  return size - block * (taken.length - 1);
}

/** Replace text in a file of bytes. @param {string} path @param {string} from @param {string} to */
async function edit(path, from, to) {
  const bytes = (await readFile(path)).toString('latin1');
  assert.ok(bytes.includes(from));
  await writeFile(path, Buffer.from(bytes.replace(from, to), 'latin1'));
}
