/** Every folder in onnxruntime-node and in WebAssembly, beside Python's answers. */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, describe, test } from 'node:test';

import { load } from '../src/index.js';
import { readStateFile } from '../src/state_file.js';
import { folderOf, vectors, work } from './vectors.js';

/** @typedef {import('../src/index.js').Model} Model */

// Standard graphs round activations to 8 bits for matrices in 8 and 4 bits, and WebAssembly does not: there logits differ
// by as much as that rounding, and tokens may part.
const ROUNDING = 0.05;
const EXACT = 1e-4;
const INT8_STATE = 2e-3; // a row's number that lies in the middle of two steps may be rounded to the other one

for (const [name, expected] of Object.entries(vectors.folders)) {
  for (const provider of /** @type {const} */ (['cpu', 'wasm'])) {
    const isQuantized = /(?<!kv)-int[48]$/.test(name);
    const rounds = provider === 'wasm' && isQuantized;
    describe(`${name} by ${provider}`, async () => {
      const model = await load(folderOf(name), { executionProviders: [provider], threads: 1 });
      after(() => model.dispose());
      test('texts are the same token ids', () => textsAgree(model, expected.texts));
      test('chats are the same text and ids', () => chatsAgree(model, expected.chats));
      test('logits agree', () =>
        logitsAgree(model, expected.answers, rounds ? ROUNDING : name.endsWith('kv-int8') ? INT8_STATE : EXACT));
      test('prompt lookup changes no answer', () => lookupAgrees(model, expected.lookup, rounds));
      if (rounds) return;
      test('answers have the same tokens', () => answersAgree(model, expected.answers));
      test('chats have the same answers, turn by turn', () => turnsAgree(model, expected));
      test('states of Python go on with the same tokens', () => statesGoOn(model, expected.states));
      if (isQuantized) return;
      test('the same keys are kept as in Python', () => keptKeysAgree(model, name, expected));
      test('states go to Python', () => saveStates(model, name, provider, expected.answers));
    });
  }
}

test('a state in 8 bits parts in WebAssembly by one step of one number, and not before', async () => {
  const name = 'doge-tiny-fp32-kv-int8';
  const providers = /** @type {const} */ (['cpu', 'wasm']);
  const models = await Promise.all(
    providers.map((provider) => load(folderOf(name), { executionProviders: [provider], threads: 1 })),
  );
  const states = models.map((model) => model.newState());
  const sampled = { maxNewTokens: 120, ignoreEos: true, temperature: 1, seed: 1 };
  const { tokenIds } = await models[0].generate('The cat sat on the', sampled);
  /** @type {number[]} */
  let steps = [];
  for (const [i, tokenId] of tokenIds.entries()) {
    for (const [j, model] of models.entries()) await model.prefill([tokenId], { state: states[j] });
    const [here, there] = states.map(({ cache }) => new Int8Array(cache.rows(i + 1).buffer));
    steps = Array.from(here, (code, at) => Math.abs(code - there[at])).filter(Boolean);
    if (steps.length) break;
  }
  assert.ok(steps.length >= 1 && steps.length < 10, `${steps.length} numbers`);
  assert.deepEqual(new Set(steps), new Set([1]));
  for (const model of models) await model.dispose();
});

/** @param {Model} model @param {any[]} texts */
function textsAgree({ tokenizer }, texts) {
  for (const { text, ids, inner, as_text: asText, decoded, whole } of texts) {
    assert.deepEqual(tokenizer.encode(text), ids);
    assert.deepEqual(tokenizer.encode(text, { addSpecialTokens: false }), inner);
    assert.deepEqual(tokenizer.encodeAsText(text), asText);
    assert.deepEqual([tokenizer.decode(ids), tokenizer.decode(ids, { skipSpecialTokens: false })], [decoded, whole]);
  }
}

/** @param {Model} model @param {any[]} chats */
function chatsAgree(model, chats) {
  const { chatPrompt, reader } = model;
  for (const { messages, text, ids } of chats) {
    assert.equal(chatPrompt.template.render(messages), text);
    assert.deepEqual(reader.messageIds(messages, chatPrompt, new Set()), ids);
    assert.equal(model.countTokens(messages), ids.length);
  }
}

/** @param {Model} model @param {any[]} answers @param {number} most */
async function logitsAgree(model, answers, most) {
  for (const { prompt, logits } of answers) {
    const row = (await model.logits(prompt))[prompt.length - 1];
    const largest = Math.max(...logits.map(Math.abs));
    const difference = Math.max(
      ...logits.map((/** @type {number} */ logit, /** @type {number} */ i) => Math.abs(logit - row[i])),
    );
    assert.ok(difference <= most * largest, `${difference / largest} of the largest logit, ${prompt.length} tokens`);
  }
}

/** @param {Model} model @param {any[]} answers */
async function answersAgree(model, answers) {
  for (const { prompt, greedy, text, penalty, seed, sampled, weakened } of answers) {
    const own = { ignoreEos: true, maxNewTokens: greedy.length };
    const found = await model.generate(prompt, { ...own, temperature: 0, repetitionPenalty: penalty });
    assert.deepEqual([found.tokenIds, found.text], [greedy, text]);
    const drawn = await model.generate(prompt, { ...own, temperature: 0.9, topK: 40, topP: 0.95, minP: 0.02, seed });
    assert.deepEqual(drawn.tokenIds, sampled);
    const openai = { temperature: 0, presencePenalty: 1.5, frequencyPenalty: 0.8, logitBias: { 5: 1.25, 11: -2 } };
    assert.deepEqual((await model.generate(prompt, { ...own, ...openai })).tokenIds, weakened);
  }
}

/** @param {Model} model @param {any} lookup @param {boolean} rounds */
async function lookupAgrees(model, { prompt, tokens }, rounds) {
  const options = { ignoreEos: true, temperature: 0, maxNewTokens: tokens.length };
  const state = model.newState();
  const found = await model.generate(prompt, { ...options, state, promptLookupNumTokens: 5 });
  const plain = await model.generate(prompt, options);
  assert.deepEqual(found.tokenIds, plain.tokenIds);
  assert.equal(state.position, prompt.length + tokens.length - 1);
  if (!rounds) assert.deepEqual(found.tokenIds, tokens);
  assert.ok(found.draftedTokens >= found.acceptedTokens);
  const next = { ...options, maxNewTokens: 5 };
  const goneOn = await model.generate('', { ...next, state });
  const whole = await model.generate([...prompt, ...plain.tokenIds], next);
  if (!rounds) assert.deepEqual(goneOn.tokenIds, whole.tokenIds);
  state.dispose();
}

/** @param {Model} model @param {{chats: any[], answers: any[]}} expected */
async function turnsAgree(model, { chats, answers }) {
  const greedy = { temperature: 0, repetitionPenalty: answers[0].penalty };
  for (const { messages, answer, turns } of chats) {
    assert.equal((await model.chat(messages, { ...greedy, maxNewTokens: 12 })).text, answer);
    const state = model.newState();
    for (const turn of turns) {
      assert.equal((await model.chat(chats[0].messages, { ...greedy, state, maxNewTokens: 12 })).text, turn);
    }
    state.dispose();
  }
}

/** @param {Model} model @param {any[]} states */
async function statesGoOn(model, states) {
  for (const { file, position, unfed_token: unfed, tokens, penalty } of states) {
    const state = model.loadState(readFileSync(`${work}/${file}`));
    assert.deepEqual([state.position, state.unfedToken, state.metadata.note], [position, unfed, 'café']);
    for (const branch of [state.copy(), model.loadState(state.save())]) {
      const options = {
        state: branch,
        ignoreEos: true,
        maxNewTokens: tokens.length,
        temperature: 0,
        repetitionPenalty: penalty,
      };
      assert.deepEqual((await model.generate('', options)).tokenIds, tokens, file);
      branch.dispose();
    }
    state.dispose();
  }
}

/** @param {Model} model @param {string} name @param {{answers: any[], states: any[]}} expected */
async function keptKeysAgree(model, name, { answers, states }) {
  const { description } = model.decoder;
  for (const [i, { prompt, penalty }] of answers.entries()) {
    const { file, way } = states[i];
    assert.deepEqual([file, way], [`${name}-standard-${prompt.length}.safetensors`, 'standard']);
    const state = await model.prefill(prompt);
    await model.generate([7], { state, ignoreEos: true, temperature: 0, repetitionPenalty: penalty, maxNewTokens: 6 });
    const [theirs, ours] = [readFileSync(`${work}/${file}`), state.save()].map((each) =>
      readStateFile(each, description),
    );
    // numbers are rounded otherwise, and Python wrote a note
    assert.deepEqual(ours, { ...theirs, cache: ours.cache, precedence: ours.precedence, metadata: {} });
    state.dispose();
  }
}

/**
 * Save the midst of an answer to a file, with the tokens that must follow, for tests/javascript/check_states.py.
 * @param {Model} model @param {string} name @param {string} provider @param {any[]} answers
 */
async function saveStates(model, name, provider, answers) {
  const rows = [];
  for (const { prompt, greedy, penalty } of answers) {
    const options = { ignoreEos: true, temperature: 0, repetitionPenalty: penalty };
    const state = model.newState();
    const first = await model.generate(prompt, { ...options, state, maxNewTokens: 10 });
    assert.deepEqual(first.tokenIds, greedy.slice(0, 10));
    state.metadata.note = 'naïve';
    const file = `${name}-${provider}-${prompt.length}.safetensors`;
    writeFileSync(`${work}/${file}`, state.save());
    rows.push({ folder: name, file, note: 'naïve', penalty, tokens: greedy.slice(10) });
    state.dispose();
  }
  writeFileSync(`${work}/saved-${name}-${provider}.json`, JSON.stringify(rows));
}
