// The golden table in transformers.js on Node: node check_transformers_js.mjs WORK, beside its node_modules.
// AutoModelForCausalLM with prompts alone, all in one batch padded on the left, and a streamer; the pipeline with texts
// and chats; one token beyond the window. The exit code is the number of folders that differ.

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { AutoConfig, AutoModelForCausalLM, Tensor, TextStreamer, env, pipeline } from '@huggingface/transformers';

const work = resolve(process.argv[2]);
env.allowRemoteModels = false;
env.localModelPath = `${work}/`;
const read = (name) => JSON.parse(readFileSync(`${work}/${name}.json`));
const table = read('table'), chats = read('chats');
const tensor = (rows) =>
  new Tensor('int64', BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length]);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const anyToken = (row) => ({ // greedy, whatever token comes
  max_new_tokens: row.tokens.length, min_new_tokens: row.tokens.length, do_sample: false, eos_token_id: -1,
  repetition_penalty: row.repetition_penalty,
});

async function generate(model, rows, ids, mask, options = {}) {
  const found = await model.generate({
    input_ids: tensor(ids), attention_mask: tensor(mask), ...anyToken(rows[0]), ...options,
  });
  return found.tolist().map((row) => row.slice(ids[0].length).map(Number));
}

async function alone(model, row, options = {}) {
  return (await generate(model, [row], [row.prompt], [row.prompt.map(() => 1)], options))[0];
}

async function together(model, rows) {
  const width = Math.max(...rows.map((row) => row.prompt.length));
  const pad = (ids) => [...Array(width - ids.length).fill(0), ...ids];
  return generate(model, rows, rows.map((row) => pad(row.prompt)), rows.map((row) => pad(row.prompt.map(() => 1))));
}

// As tests/runtimes/rows.py: where the processor rounds several rows otherwise, one of two nearly equal tokens may win;
// and a repetition penalty takes padding, which is 0, for tokens of the row.
function sameInBatch(found, row) {
  const end = row.repetition_penalty === 1 ? -1 : row.tokens.indexOf(0);
  const tokens = end < 0 ? row.tokens : row.tokens.slice(0, end);
  const first = tokens.findIndex((token, index) => token !== found[index]);
  if (first < 0 || row.batch_is_exact) return first < 0;
  return found[first] === row.runners_up[first] && row.gaps[first] <= 2 * row.rounding;
}

async function streams(generator, row) {
  let streamed = '';
  const options = { skip_prompt: true, skip_special_tokens: true, callback_function: (text) => { streamed += text; } };
  await alone(generator.model, row, { streamer: new TextStreamer(generator.tokenizer, options) });
  return streamed === generator.tokenizer.decode(row.tokens, { skip_special_tokens: true });
}

async function continuesText(generator, row) {
  const decode = (ids) => generator.tokenizer.decode(ids, { skip_special_tokens: true });
  const [found] = await generator(decode(row.prompt), { ...anyToken(row), add_special_tokens: true });
  return found.generated_text === decode([...row.prompt, ...row.tokens]);
}

async function answers(generator, chat) {
  const text = generator.tokenizer.apply_chat_template(chat.messages, { tokenize: false, add_generation_prompt: true });
  const [found] = await generator(chat.messages, { max_new_tokens: 16, do_sample: false });
  return text === chat.text && found.generated_text.at(-1).content === chat.answer;
}

async function failsBeyond(model, window) {
  console.error = () => {}; // it prints all inputs of a session that fails
  try {
    await model.generate({ input_ids: tensor([Array(window + 1).fill(5)]), max_new_tokens: 1 });
  } catch (error) {
    return error.message.includes('within_keep_window_size');
  }
  return false;
}

async function check(name) {
  const rows = table[name];
  const config = await AutoConfig.from_pretrained(name);
  config.model_type = 'llama'; // its registry does not know doge; the graph is all that counts
  const model = await AutoModelForCausalLM.from_pretrained(name, { config });
  const generator = await pipeline('text-generation', name, { config });
  const singles = [], texts = [], told = [];
  for (const row of rows) singles.push(same(await alone(model, row), row.tokens));
  for (const row of rows.slice(0, 4)) texts.push(await continuesText(generator, row));
  // random models have no ends; our own runtime also ends where the template does
  const ends = generator.model.generation_config.eos_token_id != null;
  const window = config.keep_window_size ?? config.max_position_embeddings; // a Llama keeps its whole context
  const fitting = (chats[name] ?? []).filter((chat) => chat.ids.length + 16 <= window);
  for (const chat of ends ? fitting : []) told.push(await answers(generator, chat));
  const batch = await together(model, rows);
  const ways = {
    alone: singles.every(Boolean),
    'batch padded on the left': rows.every((row, index) => sameInBatch(batch[index], row)),
    streamer: await streams(generator, rows[0]),
    'pipeline with texts': texts.every(Boolean),
    'pipeline with chats': told.every(Boolean),
    'end of the window': window > 128 || await failsBeyond(model, window),
  };
  for (const each of [model, generator]) await each.dispose();
  return Object.keys(ways).filter((way) => !ways[way]);
}

let failed = 0;
for (const name of Object.keys(table)) {
  const differing = await check(name);
  console.log(`transformers.js ${env.version} ${name}: ${differing.join(', ') || 'the same tokens'}`);
  failed += differing.length ? 1 : 0;
}
process.exit(failed);
