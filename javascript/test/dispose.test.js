/** The end of a model: what is called behind it or meanwhile, and the memory that it gives back. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { Conversation, StateError, load } from '../src/index.js';
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
