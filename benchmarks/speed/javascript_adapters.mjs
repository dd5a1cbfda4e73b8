// Decoding with adapters in JavaScript, in turns: node javascript_adapters.mjs FOLDER PROVIDER THREADS ROUNDS
// A line of JSON for each adapter, null for the base: in each round tokens per second of wall time and of processor time,
// and milliseconds of a new stream's first step, which binds the matrices. One more line has MB resident before the first adapter and behind all.

import { load } from "../../javascript/src/index.js";

const [PROMPT, STEPS] = [64, 32]; // tokens, as in adapters.py
const [folder, provider, threads, rounds] = [
  ...process.argv.slice(2, 4),
  ...process.argv.slice(4).map(Number),
];
const model = await load(folder, { executionProviders: [provider], threads });
const prompt = Array.from(
  { length: PROMPT },
  (_, i) => (7919 * i) % model.decoder.vocabSize,
);
const megabytes = () => process.memoryUsage().rss / 1e6;

/** Tokens per second of steps behind a prompt: by the wall's clock, and by the processor's. */
async function speedOf(decoder) {
  const state = decoder.newState();
  await decoder.forward(state, prompt);
  const [start, used] = [performance.now(), process.cpuUsage()];
  for (let i = 0; i < STEPS; i++) await decoder.forward(state, [prompt[i]]);
  const seconds = (performance.now() - start) / 1e3;
  const { user, system } = process.cpuUsage(used);
  state.dispose();
  return [STEPS / seconds, (1e6 * STEPS) / (user + system)];
}

/** Of a new stream's first step. */
async function millisecondsToChange(decoder) {
  const state = decoder.newState();
  const start = performance.now();
  await decoder.forward(state, [1]);
  const elapsed = performance.now() - start;
  state.dispose();
  return elapsed;
}

const decoders = new Map([[null, model.decoder]]);
await speedOf(model.decoder);
const before = megabytes();
for (const name of model.adapters) {
  decoders.set(name, (await model.withAdapter(name)).decoder);
  await speedOf(decoders.get(name));
}
const behind = megabytes();
const speeds = new Map([...decoders.keys()].map((name) => [name, []]));
for (let round = 0; round < rounds; round++) {
  for (const [name, decoder] of decoders)
    speeds.get(name).push(await speedOf(decoder));
}
for (const [name, decoder] of decoders) {
  const changes = [];
  for (let i = 0; i < 3; i++) changes.push(await millisecondsToChange(decoder));
  console.log(
    JSON.stringify({
      adapter: name,
      tokens_per_s: speeds.get(name),
      change_ms: changes,
    }),
  );
}
console.log(JSON.stringify({ mb_before: before, mb_behind: behind }));
process.exit(0);
