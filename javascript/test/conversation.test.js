/** Conversations beside Python's: tests/javascript/talks.py. */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';

import { Conversation, OptionError, StateError, load } from '../src/index.js';
import { camelCase, folderOf, vectors, work } from './vectors.js';

/** @typedef {import('../src/index.js').Model} Model */

for (const talk of vectors.talks) {
  const { name, folder, system, questions, turns, last, transcribed } = talk;
  const options = camelCase(talk.options);
  describe(`the conversation ${name}`, () => {
    /** @type {Model} */
    let model;
    before(async () => {
      model = await load(folderOf(folder), { executionProviders: ['cpu'], threads: 1 });
    });
    after(() => model.dispose());
    const begun = () => new Conversation(model, system === null ? {} : { system });

    test('goes turn by turn as in Python, and on in Python after it was saved', async () => {
      const conversation = begun();
      for (const turn of turns) await agrees(conversation, turn, options);
      const bytes = conversation.save();
      writeFileSync(`${work}/talked-${name}.safetensors`, bytes);
      const { messages, text } = conversation;
      const left = [...text].slice(0, conversation.turns.at(-1)?.[2]).join('');
      await agrees(conversation, last, options);
      const expected = {
        ...{ folder, options: talk.options, messages, question: last.question, answer: answerOf(last) },
        ...{ undone: [last.question, questions.at(-1)], left },
      };
      writeFileSync(`${work}/talked-${name}.json`, JSON.stringify(expected));
      const resumed = Conversation.resume(model, bytes);
      await agrees(resumed, last, options);
      for (const each of [conversation, resumed]) each.dispose();
    });

    test('goes on from the files that Python saved', async () => {
      const saved = Conversation.resume(model, readFileSync(`${work}/python-${name}.safetensors`));
      await agrees(saved, last, options);
      const text = Conversation.resume(model, readFileSync(`${work}/python-${name}.json`));
      await agrees(text, transcribed, options);
      for (const each of [saved, text]) each.dispose();
    });

    test('forgets a question that was stopped within its prompt, wherever that happens', async () => {
      const conversation = begun();
      for (const turn of turns) {
        await stopped(conversation, options);
        const kept = Conversation.resume(model, conversation.save());
        await agrees(conversation, { ...turn, fed: null }, options);
        await agrees(kept, { ...turn, fed: null }, options);
        kept.dispose();
      }
      conversation.dispose();
    });
  });
}

/** A question and all that is then held. @param {Conversation} conversation @param {any} turn @param {any} options */
async function agrees(conversation, turn, options) {
  const result = await conversation.ask(turn.question, options).readAll();
  if (turn.fed !== null) assert.equal(result.promptTokens, turn.fed, 'tokens that were fed');
  const { messages, tokens, text, turns, state } = conversation;
  const found = { messages, tokens, text, turns, position: state.position };
  assert.deepEqual(found, Object.fromEntries(Object.keys(found).map((name) => [name, turn[name]])));
}

/** @param {any} turn */
const answerOf = ({ messages }) => messages.at(-1).content;

/** Ask a long question and end it within its prompt. @param {Conversation} conversation @param {any} options */
async function stopped(conversation, options) {
  const controller = new AbortController();
  const before = conversation.state.position;
  const onPrompt = () => controller.abort(); // after the first of several chunks
  const asking = conversation.ask('hi '.repeat(400), { ...options, signal: controller.signal, onPrompt });
  await assert.rejects(asking.readAll(), { name: 'AbortError' });
  assert.ok(conversation.state.position > before);
}

describe('a conversation', () => {
  /** @type {Model} */
  let model;
  before(async () => {
    model = await load(folderOf('native'), { executionProviders: ['cpu'], threads: 1 });
  });
  after(() => model.dispose());
  const options = { maxNewTokens: 12, temperature: 0, ignoreEos: true };

  test('keeps an answer that was stopped, and no other stream moves it', async () => {
    const conversation = new Conversation(model);
    const [early, never] = [conversation.ask('Hi', options), conversation.ask('Hi', options)];
    await assert.rejects(early.readAll(), { name: 'StateError', message: /another message came before/ });
    for await (const _ of never) {
      assert.throws(() => conversation.ask('b', { topK: -1 }), OptionError); // which takes nothing back
      if (never.tokenIds.length >= 5) break;
    }
    assert.deepEqual(conversation.messages.at(-1), { role: 'assistant', content: never.text });
    assert.equal(conversation.tokens.length, conversation.state.position + 1);
    await conversation.ask('Why?', options).readAll();
    assert.equal(conversation.messages.length, 4);
    conversation.dispose();
  });

  test('keeps a copy of its state only where a turn may go beyond the window', async () => {
    const conversation = new Conversation(model);
    await conversation.ask('Hi', options).readAll();
    assert.equal(conversation.prefix.remembered, null);
    await conversation.ask('Once '.repeat(40), options).readAll();
    const { remembered } = /** @type {any} */ (conversation.prefix);
    assert.ok(remembered.position < model.contextSize);
    conversation.dispose();
  });

  test('a system message for a model without chat template is refused', async () => {
    const plain = await load(folderOf('without-template'), { executionProviders: ['cpu'], threads: 1 });
    const refused = { name: 'OptionError', message: /no chat template; leave the system message away/ };
    assert.throws(() => new Conversation(plain, { system: 'Be kind.' }), refused);
    assert.throws(() => new Conversation(model, { system: /** @type {any} */ (7) }), OptionError);
    await plain.dispose();
  });

  test('damaged files are refused in a sentence', async () => {
    const conversation = new Conversation(model);
    await conversation.ask('Hi', options).readAll();
    const state = model.loadState(conversation.save());
    const whole = JSON.parse(state.metadata.conversation);
    const wrong = [
      ...[{ messages: [{ role: 'user' }] }, { messages: 7 }, { tokens: [] }, { tokens: Array(99).fill(-1) }],
      ...[{ tokens: Array(99).fill(true) }, { text: 1 }, { turns: [[9, 0, 0]] }, { turns: [['a', 0, 0]] }],
      ...[{ turns: [[0]] }, { turns: [7] }, { turns: null }, { tokens: 'abc' }],
    ];
    for (const part of wrong) {
      state.metadata.conversation = JSON.stringify({ ...whole, ...part });
      assert.throws(() => Conversation.resume(model, state.save()), damaged, JSON.stringify(part));
    }
    for (const text of ['7', 'null', '{']) {
      state.metadata.conversation = text;
      assert.throws(() => Conversation.resume(model, state.save()), damaged, text);
    }
    delete state.metadata.conversation;
    assert.throws(() => Conversation.resume(model, state.save()), /without a conversation/);
    assert.throws(() => Conversation.resume(model, /** @type {any} */ ('{}')), StateError);
    for (const each of [state, conversation]) each.dispose();
  });

  test('files of /save that are none are refused in a sentence', () => {
    const [user, assistant] = ['user', 'assistant'].map((role) => ({ role, content: 'a' }));
    const wrong = [
      ...['{', '[7]', '{"a": 1}', '[{"role": "user"}]', '{"messages": 7}', '[null]'],
      ...[[user], [assistant, user], [user, { ...assistant, content: [] }]].map((each) => JSON.stringify(each)),
    ];
    for (const text of wrong) {
      const read = () => Conversation.resume(model, new TextEncoder().encode(text));
      assert.throws(read, { name: 'StateError', message: /give another file$/ }, text);
    }
    assert.equal(Conversation.resume(model, new TextEncoder().encode('[]')).messages.length, 0);
  });
});

const damaged = { name: 'StateError', message: /^the file holds a damaged conversation: [^\n]+$/ };
