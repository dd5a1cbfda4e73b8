/** Adapters beside a base: Python's answers with each, states that know theirs, and calls that do not fit. */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';

import { Conversation, OptionError, PackageError, StateError, load } from '../src/index.js';
import { rejects } from './refusals.js';
import { folderOf, vectors, work } from './vectors.js';

/** @typedef {import('../src/index.js').Model} Model */
/** @typedef {{prompt: number[], tokens: number[], logits: number[], file: string, going_on: number[]}} Answer */

const PROVIDERS = /** @type {const} */ (['cpu', 'wasm']);
const EXACT = 1e-4; // of the largest logit
const ROUNDING = 0.1; // of activations to 8 bits in Python, which random adapters of this size make larger
const GREEDY = { temperature: 0, repetitionPenalty: 10, ignoreEos: true, maxNewTokens: 20 };
const FIRST = 10; // tokens of an answer that are made before its state is saved
const ADDED = `${work}/added.onnx_adapter`;
const PROMPT = Array.from({ length: 20 }, (_, i) => 5 + i);

for (const [name, byAdapter] of Object.entries(vectors.adapters)) {
  for (const provider of PROVIDERS) {
    describe(`${name} by ${provider}`, () => {
      /** @type {Model} */
      let model;
      before(async () => {
        model = await load(folderOf(name), { executionProviders: [provider], threads: 1 });
        if ('added' in byAdapter) await model.addAdapter('added', ADDED);
      });
      after(() => model.dispose());
      const rounds = provider === 'wasm' && name.endsWith('int8');
      const most = rounds ? ROUNDING : EXACT;

      for (const [adapter, answers] of Object.entries(byAdapter)) {
        test(`logits with ${adapter || 'the base'} are those of Python`, () =>
          logitsAgree(model, adapter, answers, most));
        if (rounds) continue;
        test(`tokens with ${adapter || 'the base'} are those of Python`, () => answersAgree(model, adapter, answers));
        test(`states with ${adapter || 'the base'} go on from Python`, () => statesGoOn(model, adapter, answers));
        // Python's folder has no added one, and DogeStep rounds 8 bits otherwise than the standard graphs do
        if (adapter === 'added' || name.endsWith('int8')) continue;
        const file = `${name}-${provider}-${adapter || 'base'}`;
        test(`states with ${adapter || 'the base'} go to Python`, () =>
          saveStates(model, adapter, answers, name, file));
      }
    });
  }
}

for (const provider of PROVIDERS) {
  describe(`calls with an adapter by ${provider}`, () => {
    /** @type {Model} */
    let model;
    /** @type {number[]} */
    let legal;
    before(async () => {
      model = await load(folderOf('adapters'), { executionProviders: [provider], threads: 1 });
      [{ tokens: legal }] = vectors.adapters.adapters.legal;
    });
    after(() => model.dispose());

    test('its names are known before one is read, and no graph is opened for them', async () => {
      assert.deepEqual(model.adapters, ['legal', 'support']);
      await model.generate(PROMPT, GREEDY);
      assert.equal(model.beside.opened, null);
    });

    test('a stream, a chat and a list of prompts take one', async () => {
      const stream = model.stream(PROMPT, { ...GREEDY, adapter: 'legal' });
      for await (const _ of stream);
      assert.deepEqual(stream.tokenIds, legal);
      const messages = [{ role: 'user', content: 'Hello!' }];
      const text = (await model.chat(messages, { ...GREEDY, adapter: 'legal' })).text;
      const bound = await model.withAdapter('legal');
      assert.equal((await bound.chat(messages, GREEDY)).text, text);
      assert.notEqual((await model.chat(messages, GREEDY)).text, text);
      const adapter = ['legal', null, 'support'];
      const found = await model.generate([PROMPT, PROMPT, PROMPT], { ...GREEDY, adapter });
      const wanted = ['legal', '', 'support'].map((name) => vectors.adapters.adapters[name][0].tokens);
      assert.deepEqual(
        found.map(({ tokenIds }) => tokenIds),
        wanted,
      );
      const again = await bound.generate([PROMPT, PROMPT, PROMPT], { ...GREEDY, adapter });
      assert.deepEqual(
        again.map(({ tokenIds }) => tokenIds),
        wanted,
      );
    });

    test('prompt lookup changes no answer', async () => {
      const prompt = [...PROMPT, ...legal, ...PROMPT];
      const options = { ...GREEDY, repetitionPenalty: 1, adapter: 'legal' };
      const plain = await model.generate(prompt, options);
      const found = await model.generate(prompt, { ...options, promptLookupNumTokens: 5 });
      assert.deepEqual(found.tokenIds, plain.tokenIds);
    });

    test('a conversation is held with one, and goes on from its file', async () => {
      const bound = await model.withAdapter('legal');
      const options = { ...GREEDY, maxNewTokens: 6 };
      const talk = new Conversation(bound);
      const first = await talk.ask('Hello!', options).readAll();
      const whole = await model.chat([{ role: 'user', content: 'Hello!' }], { ...options, adapter: 'legal' });
      assert.deepEqual(first.tokenIds, whole.tokenIds);
      const resumed = Conversation.resume(bound, talk.save());
      assert.deepEqual(
        (await resumed.ask('Why?', options).readAll()).tokenIds,
        (await talk.ask('Why?', options).readAll()).tokenIds,
      );
      assert.throws(() => talk.ask('Hm?', { ...options, adapter: 'support' }), /made with the adapter "legal"/);
      assert.throws(
        () => Conversation.resume(model, talk.save()),
        /with the adapter "legal", but is to be read without/,
      );
      for (const each of [talk, resumed]) each.dispose();
      const wrong = /** @type {any} */ ({ adapter: 'legal' });
      assert.throws(() => new Conversation(model, wrong), /give it that of await model\.withAdapter\(name\)/);
    });

    test('another adapter opens no graph, and steps make no matrix', async () => {
      const other = await load(folderOf('adapters'), { executionProviders: [provider], threads: 1 });
      const { backend } = other.decoder;
      const opened = counted(backend, 'open');
      const made = counted(backend, 'constants');
      const sent = counted(/** @type {any} */ (backend).heap?.module ?? {}, '_OrtCreateTensor');
      await other.generate(PROMPT, { ...GREEDY, adapter: 'legal' });
      const state = await other.prefill(PROMPT, { adapter: 'support' });
      await other.generate([7], { ...GREEDY, state });
      assert.deepEqual([opened.count, made.count], [1, 2]);
      const before = sent.count;
      await other.generate('', { ...GREEDY, state });
      assert.deepEqual([opened.count, made.count, sent.count], [1, 2, before]);
      await other.dispose();
    });

    test('nothing of an adapter is left in the heap', { skip: provider === 'cpu' }, async () => {
      const other = await load(folderOf('adapters'), { executionProviders: [provider], threads: 1 });
      for (const name of other.adapters) await other.logits([5], { adapter: name });
      const matrices = other.beside.constants.reduce((sum, { tensors }) => sum + Object.keys(tensors).length, 0);
      const { module } = /** @type {any} */ (other.decoder.backend).heap;
      const [released, sessions] = [counted(module, '_OrtReleaseTensor'), counted(module, '_OrtReleaseSession')];
      const freed = counted(module, '_free');
      await (await other.withAdapter('legal')).dispose();
      assert.equal(released.count, 0);
      await other.dispose();
      assert.deepEqual([released.count, sessions.count, freed.count], [matrices, 2, 2]);
    });

    test('a state knows its adapter, and goes on with no other', async () => {
      const state = await model.prefill(PROMPT, { adapter: 'legal' });
      const { tokenIds } = await model.generate([7], { ...GREEDY, state: state.copy() });
      const base = await model.prefill(PROMPT);
      const support = await model.withAdapter('support');
      await rejects(model.generate([7], { state, adapter: 'support' }), StateError, /made with the adapter "legal"/);
      await rejects(model.prefill([7], { state: base, adapter: 'legal' }), StateError, /made without an adapter/);
      await rejects(support.chat([{ role: 'user', content: 'a' }], { state: base }), StateError, /without an adapter/);
      assert.deepEqual((await support.generate([7], { ...GREEDY, state: state.copy() })).tokenIds, tokenIds);
      const bytes = state.save();
      const wrong = [
        () => model.loadState(bytes),
        () => support.loadState(bytes),
        () => model.loadState(base.save(), { adapter: 'legal' }),
      ];
      for (const each of wrong) await rejects((async () => each())(), StateError, /load it as it was made/);
      const read = await model.loadState(bytes, { adapter: 'legal' });
      assert.deepEqual((await model.generate([7], { ...GREEDY, state: read })).tokenIds, tokenIds);
      await rejects(support.decoder.forward(read, [7]), StateError, /goes on in no other way; give it to its own/);
    });

    test('names that none has, and locations of none, end in one sentence', async () => {
      /** @type {[() => Promise<unknown>, Function, RegExp][]} */
      const wrong = [
        [
          () => model.generate('a', { adapter: 'sales' }),
          OptionError,
          /"sales"; it must be one of the model's: legal, support/,
        ],
        [
          () => model.generate('a', /** @type {any} */ ({ adapter: 5 })),
          OptionError,
          /adapter is 5; it must be the name of one/,
        ],
        [
          () => model.generate('a', /** @type {any} */ ({ adapter: ['legal'] })),
          OptionError,
          /one name, as there is one prompt/,
        ],
        [
          () => model.generate(['a', 'b'], { adapter: ['legal'] }),
          OptionError,
          /1 names; it must have one for each of 2/,
        ],
        [() => model.prefill('a', { adapter: '' }), OptionError, /adapter is ""/],
        [() => model.logits([1], { adapter: 'x' }), OptionError, /adapter is "x"/],
        [() => model.withAdapter('x'), OptionError, /adapter is "x"/],
        [() => model.addAdapter('legal', ADDED), OptionError, /there is an adapter "legal" already/],
        [() => model.addAdapter('a/b', ADDED), OptionError, /must be letters, digits, dots, dashes and underscores/],
        [
          () => model.addAdapter('new', /** @type {any} */ (7)),
          OptionError,
          /location is 7; it must be a path, a URL or/,
        ],
        [() => model.addAdapter('new', `${work}/none.onnx_adapter`), PackageError, /is missing; give an adapter file/],
        [() => model.addAdapter('new', 'http://127.0.0.1:9/a.onnx_adapter'), PackageError, /cannot be loaded/],
      ];
      for (const [call, kind, message] of wrong) await rejects(call(), kind, message);
      assert.throws(() => model.stream('a', { adapter: 'x' }), OptionError);
      const plain = await load(folderOf('native'), { executionProviders: [provider], threads: 1 });
      await rejects(plain.generate('a', { adapter: 'x' }), OptionError, /none, as none was exported or added/);
      await rejects(plain.addAdapter('new', ADDED), PackageError, /export it with --adapters NAME=DIR/);
      await plain.dispose();
    });

    test('an adapter is added by a path, a URL of a file, or its bytes', async () => {
      const [{ tokens }] = vectors.adapters.adapters.added;
      const locations = { path: ADDED, url: pathToFileURL(ADDED), bytes: new Uint8Array(readFileSync(ADDED)) };
      for (const [name, location] of Object.entries(locations)) {
        await model.addAdapter(name, location);
        assert.deepEqual((await model.generate(PROMPT, { ...GREEDY, adapter: name })).tokenIds, tokens);
      }
      assert.deepEqual(model.adapters, ['legal', 'support', 'path', 'url', 'bytes']);
    });
  });
}

/** @param {Model} model @param {string} adapter @param {Answer[]} answers @param {number} most */
async function logitsAgree(model, adapter, answers, most) {
  for (const { prompt, logits } of answers) {
    const row = (await model.logits(prompt, given(adapter)))[prompt.length - 1];
    const largest = Math.max(...logits.map(Math.abs));
    const difference = Math.max(...logits.map((logit, i) => Math.abs(logit - row[i])));
    assert.ok(difference <= most * largest, `${difference / largest} of the largest logit, ${prompt.length} tokens`);
  }
}

/** @param {Model} model @param {string} adapter @param {Answer[]} answers */
async function answersAgree(model, adapter, answers) {
  for (const { prompt, tokens } of answers)
    assert.deepEqual((await model.generate(prompt, { ...GREEDY, ...given(adapter) })).tokenIds, tokens);
}

/** @param {Model} model @param {string} adapter @param {Answer[]} answers */
async function statesGoOn(model, adapter, answers) {
  for (const { file, going_on: expected } of answers) {
    const state = await model.loadState(readFileSync(`${work}/${file}`), given(adapter));
    const branch = await model.loadState(state.save(), given(adapter));
    for (const own of [state, branch])
      assert.deepEqual((await model.generate([7], { ...GREEDY, state: own })).tokenIds, expected, file);
  }
}

/**
 * The midst of each answer in a file, with the tokens that must follow, for tests/javascript/check_states.py.
 * @param {Model} model @param {string} adapter @param {Answer[]} answers @param {string} folder @param {string} name
 */
async function saveStates(model, adapter, answers, folder, name) {
  const rows = [];
  for (const { prompt, tokens } of answers) {
    const state = await model.newState(given(adapter));
    await model.generate(prompt, { ...GREEDY, state, maxNewTokens: FIRST });
    state.metadata.note = 'naïve';
    const file = `${name}-${prompt.length}.safetensors`;
    writeFileSync(`${work}/${file}`, state.save());
    const { repetitionPenalty: penalty } = GREEDY;
    rows.push({ folder, file, note: 'naïve', penalty, tokens: tokens.slice(FIRST), ...given(adapter) });
  }
  writeFileSync(`${work}/saved-${name}.json`, JSON.stringify(rows));
}

/** Options that name an adapter, '' none. @param {string} adapter */
const given = (adapter) => (adapter ? { adapter } : {});

/** Counts the calls of a method. @param {any} owner @param {string} name */
function counted(owner, name) {
  const calls = { count: 0 };
  const method = owner[name];
  owner[name] = (/** @type {any[]} */ ...given) => {
    calls.count++;
    return method.apply(owner, given);
  };
  return calls;
}
