// The golden table in transformers.js on Node: node check_transformers_js.mjs WORK, beside its node_modules.
// Prompts alone, all in one batch padded on the left, and a streamer. The exit code is the number of folders that differ.

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { AutoConfig, AutoModelForCausalLM, AutoTokenizer, Tensor, TextStreamer, env } from '@huggingface/transformers';

const work = resolve(process.argv[2]);
env.allowRemoteModels = false;
env.localModelPath = `${work}/`;
const table = JSON.parse(readFileSync(`${work}/table.json`));
const tensor = (rows) =>
  new Tensor('int64', BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length]);

async function generate(model, ids, mask, count, options = {}) {
  const found = await model.generate({
    input_ids: tensor(ids), attention_mask: tensor(mask), max_new_tokens: count, min_new_tokens: count,
    do_sample: false, repetition_penalty: 1.0, eos_token_id: -1, ...options,
  });
  return found.tolist().map((row) => row.slice(ids[0].length).map(Number));
}

async function check(name) {
  const config = await AutoConfig.from_pretrained(name);
  config.model_type = 'llama'; // its registry does not know doge; the graph is all that counts
  const model = await AutoModelForCausalLM.from_pretrained(name, { config, dtype: 'fp32', device: 'cpu' });
  const prompts = table[name].map((row) => row.prompt), expected = table[name].map((row) => row.tokens);
  const count = expected[0].length, width = Math.max(...prompts.map((prompt) => prompt.length));
  const alone = [];
  for (const prompt of prompts) alone.push((await generate(model, [prompt], [prompt.map(() => 1)], count))[0]);
  const pad = (row, value) => [...Array(width - row.length).fill(value), ...row];
  const padded = prompts.map((prompt) => pad(prompt, 0)), mask = prompts.map((prompt) => pad(prompt.map(() => 1), 0));
  const together = await generate(model, padded, mask, count);
  let streamed = '';
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const streamer = new TextStreamer(tokenizer, { skip_prompt: true, callback_function: (text) => { streamed += text; } });
  await generate(model, [prompts[0]], [prompts[0].map(() => 1)], count, { streamer });
  const ways = { alone: alone, 'batch padded on the left': together };
  const differing = Object.keys(ways).filter((way) => JSON.stringify(ways[way]) !== JSON.stringify(expected));
  if (!streamed.length) differing.push('streamer');
  return differing;
}

let failed = 0;
for (const name of Object.keys(table)) {
  const differing = await check(name);
  console.log(`transformers.js ${env.version} ${name}: ${differing.join(', ') || 'the same tokens'}`);
  failed += differing.length ? 1 : 0;
}
process.exit(failed);
