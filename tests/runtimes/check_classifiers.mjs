// Exported classifiers in transformers.js on Node: node check_classifiers.mjs WORK, beside its node_modules.
// The text-classification pipeline opens each folder of classifiers.json; its labels and scores, alone and in a batch, are
// compared with those of our own runtime. The exit code is the number of folders that differ.

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { AutoConfig, env, pipeline } from '@huggingface/transformers';

const work = resolve(process.argv[2]);
env.allowRemoteModels = false;
env.localModelPath = `${work}/`;
const { texts, folders } = JSON.parse(readFileSync(`${work}/classifiers.json`));
const near = (a, b, tolerance) =>
  a.length === b.length && a.every((value, index) => Math.abs(value - b[index]) <= tolerance);

async function check(name) {
  const expected = folders[name], tolerance = name.includes('int8') ? 1e-3 : 1e-5;
  const config = await AutoConfig.from_pretrained(name);
  config.model_type = 'bert'; // its registry of classifiers knows neither doge nor llama; the graph is all that counts
  const classify = await pipeline('text-classification', name, { config });
  const labels = Object.values(config.id2label);
  // it knows no regression: one label gets a softmax, which is 1
  const wanted = expected.problem_type === 'regression' ? expected.scores.map(() => [1]) : expected.scores;
  const scores = (rows) => rows.map((row) => labels.map((label) => row.find((each) => each.label === label).score));
  const alone = [];
  for (const text of texts) alone.push(...scores([await classify(text, { top_k: null })]));
  const together = scores(await classify(texts, { top_k: null }));
  await classify.dispose();
  const ways = { alone, 'in a batch': together };
  return Object.keys(ways).filter((way) => !ways[way].every((row, index) => near(row, wanted[index], tolerance)));
}

let failed = 0;
for (const name of Object.keys(folders)) {
  const differing = await check(name);
  console.log(`transformers.js ${env.version} ${name}: ${differing.join(', ') || 'the same scores'}`);
  failed += differing.length ? 1 : 0;
}
process.exit(failed);
