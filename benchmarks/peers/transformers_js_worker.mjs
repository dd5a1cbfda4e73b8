// transformers.js as a contender: node transformers_js_worker.mjs transformers.js FOLDER THREADS CONTEXT
// The protocol is that of benchmarks/common/worker_process.py. Its package is resolved from TRANSFORMERS_JS, a folder
// with node_modules. The steps take the time that a run with one new token does not.

import { createRequire } from 'node:module';
import { basename, dirname, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [folder, threads, context] = [resolve(process.argv[3]), Number(process.argv[4]), Number(process.argv[5])];
const entry = createRequire(`${resolve(process.env.TRANSFORMERS_JS)}/package.json`).resolve('@huggingface/transformers');
const { AutoConfig, AutoModelForCausalLM, Tensor, env } = await import(pathToFileURL(entry));

env.allowRemoteModels = false;
env.localModelPath = `${dirname(folder)}/`;
const config = await AutoConfig.from_pretrained(basename(folder));
config.model_type = 'llama'; // its registry does not know doge
const session_options = { intraOpNumThreads: threads };
const model = await AutoModelForCausalLM.from_pretrained(basename(folder), {
  config, dtype: 'fp32', device: 'cpu', session_options,
});
const all = Array.from({ length: context }, (_, i) => BigInt(3 + ((i * 7919) % (config.vocab_size - 3))));

async function generate(prompt, count) {
  const input_ids = new Tensor('int64', BigInt64Array.from(all.slice(0, prompt)), [1, prompt]);
  const attention_mask = new Tensor('int64', new BigInt64Array(prompt).fill(1n), [1, prompt]);
  const length = { min_new_tokens: count, max_new_tokens: count };
  const start = performance.now();
  await model.generate({ input_ids, attention_mask, do_sample: false, repetition_penalty: 1.0, ...length });
  return (performance.now() - start) / 1e3;
}

await generate(64, 1);
console.log('"first"');
for await (const line of createInterface({ input: process.stdin })) {
  const [prompt, count] = line.split(' ').map(Number);
  const first = await generate(prompt, 1);
  console.log(JSON.stringify([first, count ? (await generate(prompt, count + 1)) - first : 0]));
}
