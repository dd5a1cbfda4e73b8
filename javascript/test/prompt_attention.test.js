import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { load } from '../src/index.js';
import { readModel } from '../src/onnx_graph.js';
import { withPromptAttention } from '../src/prompt_attention.js';
import { folderOf } from './vectors.js';

const kinds = (/** @type {Uint8Array} */ bytes) => readModel(bytes, 'graph').nodes.map(({ opType }) => opType);
const graph = (/** @type {string} */ name, /** @type {string} */ file) =>
  readFileSync(`${folderOf(name)}/onnx/${file}.onnx`);

for (const name of ['doge-tiny-fp32', 'experts', 'llama', 'llama-attention-rotates']) {
  test(`several tokens choose another attention in each layer of ${name}`, () => {
    for (const file of ['decoder', 'decoder_recurrent']) {
      const before = kinds(graph(name, file));
      const after = kinds(withPromptAttention(graph(name, file), file));
      const layers = before.filter((each) => each === 'GroupQueryAttention').length;
      assert.equal(after.filter((each) => each === 'If').length, layers);
      assert.ok(layers > 0 && !after.includes('GroupQueryAttention'), file);
    }
  });

  test(`prompts of ${name} have the logits of single tokens, in pieces and beyond the window`, async () => {
    const model = await load(folderOf(name), { executionProviders: ['wasm'], threads: 1 });
    const ids = Array.from({ length: 150 }, (_, i) => 3 + ((i * 71) % 200));
    const [pieces, single] = [model.decoder.newState(), model.decoder.newState()];
    for (const [from, to] of [
      [0, 2],
      [2, 60],
      [60, 130],
      [130, 150],
    ]) {
      // prettier-ignore
      const [last] = (await model.decoder.forward(pieces, ids.slice(from, to))).map((row) => row.slice());
      for (const id of ids.slice(from, to - 1)) await model.decoder.forward(single, [id]);
      const [expected] = await model.decoder.forward(single, [ids[to - 1]]);
      const scale = expected.reduce((most, each) => Math.max(most, Math.abs(each)), 0);
      last.forEach((each, i) => assert.ok(Math.abs(each - expected[i]) < 1e-4 * scale, `${to} tokens`));
    }
    await model.dispose();
  });
}

test('drafts, whose rows attend one by one, and a state in 8 bits keep their own attention', () => {
  for (const [name, file] of [
    ['llama', 'decoder_draft'],
    ['doge-tiny-fp32-kv-int8', 'decoder'],
  ]) {
    // prettier-ignore
    const bytes = graph(name, file);
    assert.equal(withPromptAttention(bytes, file), bytes);
  }
});
