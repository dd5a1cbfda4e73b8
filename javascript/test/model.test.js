/** Streams, states, options and errors of one small model. */

import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { DogeError, OptionError, PackageError, RewindError, StateError, load } from '../src/index.js';
import { folderOf } from './vectors.js';

const NAME = 'doge-tiny-fp32';
const WINDOW = 128;

for (const provider of /** @type {const} */ (['cpu', 'wasm'])) {
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

    test('a long stream takes constant memory and time', async () => {
      const state = model.newState();
      const stream = model.stream('Once', { state, ignoreEos: true, maxNewTokens: 3000, temperature: 1, seed: 1 });
      stream.collects = false;
      const sizes = [];
      for await (const _ of stream) if (stream.count % 500 === 0) sizes.push(state.nbytes);
      assert.equal(new Set(sizes).size, 1);
      assert.deepEqual([stream.count, stream.text, stream.tokenIds], [3000, '', []]);
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

    test('stop strings end an answer', async () => {
      const whole = await model.generate('Once upon a time', { maxNewTokens: 40, ignoreEos: true });
      const stop = whole.text.slice(10, 14);
      const found = await model.generate('Once upon a time', { maxNewTokens: 40, ignoreEos: true, stop });
      assert.deepEqual([found.text, found.finishReason], [whole.text.slice(0, whole.text.indexOf(stop)), 'stop']);
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
        ['a', { temperature: -1 }, /temperature is -1; it must be/],
        ['a', { topK: true }, /topK is true/],
        ['a', { topp: 1 }, /no option "topp"/],
        ['a', { stop: [''] }, /none of them empty/],
        ['a', { seed: -1 }, /seed is -1/],
        ['a', { maxNewTokens: 0 }, /at least 1/],
        ['a', { state: {} }, /state is/],
        ['a', { forcedEosTokenId: [1e6] }, /from 0 to/],
      ];
      for (const [prompt, options, message] of wrong)
        await rejects(model.generate(prompt, options), OptionError, message);
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
    ['tokenizer', (folder) => writeFile(join(folder, 'tokenizer.json'), '{"model": {}}'), /is not a tokenizer/],
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
    await rejects(load(folderOf(NAME), /** @type {any} */ ({ thread: 1 })), OptionError, /no option "thread"/);
    await rejects(load(folderOf(NAME), { threads: 0 }), OptionError, /threads is 0/);
    await rejects(
      load(folderOf(NAME), /** @type {any} */ ({ executionProviders: ['cuda'] })),
      OptionError,
      /it must be \["cpu"\]/,
    );
    await rejects(load('http://[/model'), OptionError, /it must be a URL/);
    await rejects(load('http://127.0.0.1:9/model', { executionProviders: ['wasm'] }), PackageError, /cannot be loaded/);
  });

  test('a folder without a tokenizer takes token ids', async () => {
    const model = await load(await spoilt('ids', (folder) => rm(join(folder, 'tokenizer.json'))));
    assert.equal((await model.generate([5, 6], { maxNewTokens: 3, ignoreEos: true })).tokenIds.length, 3);
    await rejects(model.generate('a'), PackageError, /no tokenizer\.json/);
    await model.dispose();
  });
});

/** Replace text in a file of bytes. @param {string} path @param {string} from @param {string} to */
async function edit(path, from, to) {
  const bytes = (await readFile(path)).toString('latin1');
  assert.ok(bytes.includes(from));
  await writeFile(path, Buffer.from(bytes.replace(from, to), 'latin1'));
}

/**
 * A promise that fails with one sentence.
 * @param {Promise<unknown>} promise
 * @param {Function} kind
 * @param {RegExp} message
 */
async function rejects(promise, kind, message) {
  await assert.rejects(promise, (/** @type {any} */ error) => {
    assert.equal(error instanceof kind, true, error.stack);
    assert.match(error.message, message);
    assert.ok(!error.message.includes('\n') && !error.message.endsWith('.'), error.message);
    return true;
  });
}
