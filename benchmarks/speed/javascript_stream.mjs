// One long stream of the JavaScript runtime: node javascript_stream.mjs FOLDER PROVIDER TOKENS PARTS
// A line of JSON for each part: tokens so far, milliseconds a token, MB resident, MB of the WebAssembly heap.

import { load } from "../../javascript/src/index.js";

const [folder, provider, tokens, parts] = [
  process.argv[2],
  process.argv[3],
  ...process.argv.slice(4).map(Number),
];
const model = await load(folder, {
  executionProviders: [provider],
  threads: 1,
});
const state = model.newState();
const stream = model.stream("Once upon a time", {
  state,
  ignoreEos: true,
  temperature: 1,
  seed: 1,
  maxNewTokens: tokens,
});
stream.collects = false;
let [next, before] = [tokens / parts, { count: 0, ms: 0 }];
for await (const _ of stream) {
  if (stream.count < next) continue;
  const { heap } = model.decoder.backend;
  console.log(
    JSON.stringify({
      tokens: stream.count,
      ms_per_token:
        (stream.decodeMs - before.ms) / (stream.count - before.count),
      rss_mb: process.memoryUsage().rss / 1e6,
      heap_mb: heap ? heap.buffer.byteLength / 1e6 : 0,
      state_mb: state.nbytes / 1e6,
    }),
  );
  before = { count: stream.count, ms: stream.decodeMs };
  next += tokens / parts;
}
process.exit(0);
