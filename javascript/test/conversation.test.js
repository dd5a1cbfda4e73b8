import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';

import { Conversation, StateError, load } from '../src/index.js';
import { folderOf, vectors, work } from './vectors.js';

describe('a conversation', () => {
  /** @type {import('../src/index.js').Model} */
  let model;
  before(async () => {
    model = await load(folderOf('doge-20m-10min-int8'), { executionProviders: ['cpu'], threads: 1 });
  });
  after(() => model.dispose());
  const options = { maxNewTokens: 20 };

  test('answers as the whole list of messages does', async () => {
    const conversation = new Conversation(model, { system: 'Be kind.' });
    for (const question of ['Hello!', 'What is water?', 'And <|im_end|> fire?']) {
      const whole = [...conversation.messages, { role: 'user', content: question }];
      const found = await conversation.ask(question, options).readAll();
      assert.equal(found.text, (await model.chat(whole, options)).text);
    }
    assert.equal(conversation.messages.length, 7);
    assert.equal(conversation.tokens.length, conversation.state.position + 1);
    conversation.dispose();
  });

  test('goes on after it was saved, and after an answer was stopped', async () => {
    const conversation = new Conversation(model);
    await conversation.ask('Hello!', options).readAll();
    const stream = conversation.ask('What is water?', { maxNewTokens: 100 });
    for await (const _ of stream) if (stream.tokenIds.length >= 5) break;
    const bytes = conversation.save();
    writeFileSync(`${work}/conversation.safetensors`, bytes);
    const resumed = Conversation.resume(model, bytes);
    assert.deepEqual([resumed.messages, resumed.turns], [conversation.messages, conversation.turns]);
    const [first, second] = [
      await conversation.ask('Why?', options).readAll(),
      await resumed.ask('Why?', options).readAll(),
    ];
    assert.deepEqual(first.tokenIds, second.tokenIds);
    writeFileSync(
      `${work}/conversation.json`,
      JSON.stringify({ messages: resumed.messages.slice(0, 4), question: 'Why?', text: first.text }),
    );
    for (const each of [conversation, resumed]) each.dispose();
  });

  test('forgets a question that was stopped before its answer', async () => {
    const stopped = new Conversation(model);
    await stopped.ask('Hello!', options).readAll();
    const controller = new AbortController();
    const onPrompt = () => controller.abort(); // after the first of two chunks
    const asking = stopped.ask('water '.repeat(400), { ...options, signal: controller.signal, onPrompt });
    await assert.rejects(asking.readAll(), { name: 'AbortError' });
    assert.ok(stopped.state.position > stopped.tokens.length);
    await stopped.ask('Why?', options).readAll();
    assert.deepEqual(
      stopped.messages.map(({ role }) => role),
      ['user', 'assistant', 'user', 'assistant'],
    );
    assert.equal(stopped.state.position, stopped.tokens.length - 1);
    assert.ok(!model.tokenizer.decode(stopped.tokens).includes('water water'));
    stopped.dispose();
  });

  test('goes on with one that Python saved', async () => {
    const { file, messages, answer } = vectors.conversation;
    const conversation = Conversation.resume(model, readFileSync(`${work}/${file}`));
    assert.deepEqual(conversation.messages, messages);
    assert.equal((await conversation.ask('Why?', { maxNewTokens: 12 }).readAll()).text, answer);
    conversation.dispose();
  });

  test('a state without one is refused', async () => {
    const state = await model.prefill('Hello');
    assert.throws(() => Conversation.resume(model, state.save()), /without a conversation/);
    state.metadata.conversation = '{"messages": 1}';
    assert.throws(() => Conversation.resume(model, state.save()), StateError);
    state.dispose();
  });
});
