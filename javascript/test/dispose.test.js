/** The end of a model: calls behind it or meanwhile, and the memory that it gives back. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { Conversation, PackageError, StateError, load } from '../src/index.js';
import { Sessions } from '../src/sessions.js';
import { rejects } from './refusals.js';
import { folderOf } from './vectors.js';

const NAME = 'doge-tiny-int8';
const OVER = /^the model was disposed of; load it again/;

for (const provider of /** @type {const} */ (['cpu', 'wasm'])) {
  /** @param {string} [name] */
  const opened = (name = NAME) => load(folderOf(name), { executionProviders: [provider], threads: 1 });

  describe(`the end of a model by ${provider}`, () => {
    test('a model can be disposed of twice, at once and later', async () => {
      const model = await opened();
      await Promise.all([model.dispose(), model.dispose()]);
      await model.dispose();
    });

    test('all that is called afterwards ends in one sentence', async () => {
      const model = await opened();
      const state = await model.prefill('Once');
      const bytes = state.save();
      const talk = new Conversation(model);
      await talk.ask('Hello', { maxNewTokens: 2 }).readAll();
      await model.dispose();
      const messages = [{ role: 'user', content: 'Hello' }];
      /** @type {(() => unknown)[]} */
      const calls = [
        () => model.generate('Once'),
        () => model.generate(['Once', 'Twice']),
        () => model.generate(' there', { state }),
        () => model.stream('Once').readAll(),
        () => model.chat(messages),
        () => model.prefill('Once'),
        () => model.logits([5]),
        () => model.newState(),
        () => model.loadState(bytes),
        () => model.addAdapter('new', new Uint8Array(1)),
        () => state.copy(),
        () => state.save(),
        () => state.truncate(0),
        () => talk.ask('Why?').readAll(),
        () => talk.save(),
        () => new Conversation(model),
        () => Conversation.resume(model, bytes),
      ];
      for (const call of calls) await rejects((async () => call())(), StateError, OVER);
      for (const each of [state, talk, state]) each.dispose();
    });

    test('a running step ends first, and then its answer', async () => {
      const model = await opened();
      const whole = await model.generate('Once', { maxNewTokens: 8, ignoreEos: true });
      const state = model.newState();
      const stream = model.stream('Once', { state, maxNewTokens: 1000, ignoreEos: true });
      while (stream.tokenIds.length < 3) await stream.next();
      const step = stream.next();
      const end = model.dispose();
      await rejects((async () => (await step, stream.readAll()))(), StateError, OVER);
      await end;
      const count = stream.tokenIds.length;
      assert.ok(count >= 3 && count < 8);
      assert.deepEqual(stream.tokenIds, whole.tokenIds.slice(0, count));
      state.dispose();
    });

    test('a long prompt ends behind the chunk that is running', async () => {
      const model = await opened();
      const state = model.newState();
      /** @type {Promise<void> | null} */
      let end = null;
      const onPrompt = () => void (end ??= model.dispose());
      await rejects(model.prefill(Array(2000).fill(5), { state, onPrompt }), StateError, OVER);
      await end;
      assert.ok(state.position > 0 && state.position < 2000);
    });

    test('a draft of prompt lookup ends behind its step', async () => {
      const model = await opened('native');
      const stream = model.stream(Array(20).fill(5), { promptLookupNumTokens: 7, ignoreEos: true, maxNewTokens: 1000 });
      const reading = stream.readAll();
      setTimeout(() => model.dispose(), 30);
      await rejects(reading, StateError, OVER);
      await model.dispose();
    });
  });
}

const WASM = /** @type {import('../src/load.js').LoadOptions} */ ({ executionProviders: ['wasm'], threads: 1 });
const LONG = { maxNewTokens: 30, ignoreEos: true };
const ROUNDS = 5;

/** @param {import('../src/index.js').Model} model @returns {import('../src/heap.js').Heap} */
const heapOf = (model) => /** @type {any} */ (model.decoder.backend).heap;

describe('heaps of WebAssembly', () => {
  test('models that come one after the other take one heap, which does not grow', async (context) => {
    const sizes = [];
    for (let round = 0; round < ROUNDS; round++) {
      const model = await load(folderOf('doge-20m-10min-int8'), WASM);
      await model.prefill('Once upon a time'); // a state that nobody disposes of
      await model.generate('Once upon a time', LONG);
      sizes.push(heapOf(model).buffer.byteLength);
      await model.dispose();
      globalThis.gc?.();
      context.diagnostic(`${megabytes(sizes[round])} MB of heap, ${megabytes(process.memoryUsage().rss)} MB resident`);
    }
    assert.deepEqual(sizes.slice(2), Array(ROUNDS - 2).fill(sizes[1])); // the second may find the room in pieces
  });

  test('two models that are open at once leave each other alone', async () => {
    const folders = [folderOf(NAME), folderOf('native')];
    const alone = [];
    for (const folder of folders) {
      const model = await load(folder, WASM);
      alone.push((await model.generate([5, 6, 7], LONG)).tokenIds);
      await model.dispose();
    }
    const models = await Promise.all(folders.map((folder) => load(folder, WASM)));
    const streams = models.map((model) => model.stream([5, 6, 7], LONG));
    await Promise.all(streams.map((stream) => stream.readAll()));
    assert.deepEqual(
      streams.map(({ tokenIds }) => tokenIds),
      alone,
    );
    await models[0].dispose();
    assert.deepEqual((await models[1].generate([5, 6, 7], LONG)).tokenIds, alone[1]);
    await models[1].dispose();
  });

  test('a heap that has failed is taken by no other model', async () => {
    const model = await load(folderOf(NAME), WASM);
    const heap = heapOf(model);
    heap.module._OrtRunWithBinding = () => {
      throw new WebAssembly.RuntimeError('Aborted(OOM)');
    };
    await rejects(model.generate('Once', LONG), PackageError, /too large for the heap/);
    await model.dispose();
    const next = await load(folderOf(NAME), WASM);
    assert.notEqual(heapOf(next), heap);
    assert.equal((await next.generate('Once', LONG)).completionTokens, 30);
    await next.dispose();
  });

  test('a model that cannot be opened leaves its heap to the next one', async () => {
    const before = await load(folderOf(NAME), WASM);
    const heap = heapOf(before);
    await before.dispose();
    const { get } = Sessions.prototype;
    Sessions.prototype.get = () => Promise.reject(new PackageError('this graph is not opened'));
    await rejects(load(folderOf(NAME), WASM), PackageError, /not opened/);
    Sessions.prototype.get = get;
    const next = await load(folderOf(NAME), WASM);
    assert.equal(heapOf(next), heap);
    await next.dispose();
  });
});

/** @param {number} bytes */
const megabytes = (bytes) => Math.round(bytes / 1e6);
