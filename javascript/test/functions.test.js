import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CleanUp } from '../src/clean_up.js';
import { METADATA_KEY, readDescription } from '../src/description.js';
import { FullWindow } from '../src/eviction.js';
import { DEFAULTS, optionsFromGenerationConfig, withOverrides } from '../src/generation_options.js';
import { PackageError } from '../src/errors.js';
import { inHeap } from '../src/heap_session.js';
import { LogitsProcessors } from '../src/logits_processors.js';
import { tokenLogprobs } from '../src/logprobs.js';
import { FLOAT32, UINT8, readModel } from '../src/onnx_graph.js';
import { field, serialize } from '../src/protobuf.js';
import { Pcg64 } from '../src/random.js';
import { candidates, sample } from '../src/sampling.js';
import { StopStrings } from '../src/stopping.js';
import { unpack } from '../src/unpacking.js';
import { camelCase, vectors } from './vectors.js';

const { cases } = vectors;

test('a seed draws the numbers that it draws in numpy', () => {
  for (const { seed, numbers } of cases.draws) {
    const generator = new Pcg64(BigInt(seed));
    assert.deepEqual(
      numbers.map(() => generator.random()),
      numbers,
      seed,
    );
  }
});

test('a decoder whose keys have bonuses is refused in one sentence', () => {
  const fields = JSON.stringify({ keep_bonus: 60, format_version: 26 });
  assert.throws(
    () => readDescription(new Map([[METADATA_KEY, fields]]), 'decoder.onnx'),
    /has keys with bonuses \(keep_bonus 60\), which JavaScript does not count; export the checkpoint without/,
  );
});

test('a decoder whose recent keys are safe is refused in one sentence', () => {
  const fields = JSON.stringify({ keep_recent: 32, format_version: 46 });
  assert.throws(
    () => readDescription(new Map([[METADATA_KEY, fields]]), 'decoder.onnx'),
    /whose last 32 tokens are safe \(keep_recent\), which JavaScript does not know; export the checkpoint with a/,
  );
});

test('a seed draws the tokens that it draws in Python', () => {
  for (const { logits, options, seed, left, tokens } of cases.samples) {
    const generator = new Pcg64(BigInt(seed));
    const kept = candidates(Float32Array.from(logits), withOverrides(DEFAULTS, camelCase(options)));
    assert.equal(kept.ids.length, left, JSON.stringify(options));
    assert.deepEqual(
      tokens.map(() => kept.ids[sample(kept.logits, () => generator.random())]),
      tokens,
    );
  }
});

test('options change logits as they do in Python', () => {
  for (const { logits, options, tokens, rows } of cases.processed) {
    const settings = withOverrides(DEFAULTS, camelCase(options));
    const processors = new LogitsProcessors(settings, new Set([2, 7]), tokens.slice(0, 2));
    const found = tokens.slice(2).map((/** @type {number} */ token) => {
      const row = processors.process(Float32Array.from(logits), { seenTokens: () => [1, 3, 8] });
      processors.append(token);
      return Array.from(row, (logit) => (Number.isFinite(logit) ? logit : null));
    });
    assert.deepEqual(found, rows, JSON.stringify(options));
  }
});

test('log-probabilities are those of Python', () => {
  const near = (/** @type {number} */ a, /** @type {number} */ b) => assert.ok(Math.abs(a - b) < 1e-6, `${a} and ${b}`);
  for (const { logits, token, logprob, best, n } of cases.likelihoods) {
    const found = tokenLogprobs(Float32Array.from(logits), token, n);
    near(found.logprob, logprob);
    assert.deepEqual(
      found.best.map(([id]) => id),
      best.map((/** @type {[number, number]} */ [id]) => id),
    );
    found.best.forEach(([, number], i) => near(number, best[i][1]));
  }
});

test('options that rule all tokens out are named', () => {
  const process = (/** @type {object} */ options) =>
    new LogitsProcessors(withOverrides(DEFAULTS, options), new Set(), []).process(Float32Array.of(1, 2), {
      seenTokens: () => [],
    });
  const all = new Map([0, 1].map((id) => [id, -Infinity]));
  assert.throws(() => process({ logitBias: all }), /no token is left to choose: logitBias rule all/);
  assert.throws(() => process({ suppressTokens: [0, 1] }), /: suppressTokens rule all/);
  assert.deepEqual([...process({ logitBias: { 0: -Infinity, 5: 1 } })], [-Infinity, 2]);
});

test('stop strings let the same pieces through', () => {
  for (const { stop, pieces, out, rest, found } of cases.stopped) {
    const strings = new StopStrings(stop);
    assert.deepEqual(
      pieces.map((/** @type {string} */ piece) => strings.push(piece)),
      out,
    );
    assert.deepEqual([strings.finish(), strings.found], [rest, found]);
  }
});

test('texts are cleaned letter by letter as in Python', () => {
  for (const { text, out, rest } of cases.cleaned) {
    const cleaning = new CleanUp();
    assert.deepEqual(
      [...text].map((letter) => cleaning.push(letter)),
      out,
    );
    assert.equal(cleaning.finish(), rest);
  }
});

test('settings of a folder stand for the same options', () => {
  for (const { config, options } of cases.settings) {
    const { seed, ...found } = optionsFromGenerationConfig(config);
    assert.deepEqual([found, seed], [camelCase(options), null], JSON.stringify(config));
  }
});

test('the same keys are evicted, with ties and sinks', () => {
  for (const { sinks, begin, steps } of cases.evicted) {
    const window = new FullWindow(Float32Array.from(begin.precedence), Uint32Array.from(begin.positions), 2, sinks);
    let position = 6;
    for (const step of steps) {
      const chosen = window.candidates(step.new.length / 2);
      assert.deepEqual([...chosen.slots], step.slots);
      window.admit(() => {}, chosen, Float32Array.from(step.new), position);
      position += step.new.length / 2;
      assert.deepEqual([[...window.precedence], [...window.positions]], [step.precedence, step.positions]);
    }
  }
});

test('numbers of a matrix are read whole, where their length is not told too', () => {
  const dims = { codes: [2, 1, 16], scales: [2], zeros: [2] };
  const data = Uint8Array.from({ length: 64 }, (_, i) => i);
  data.set(new Uint8Array(Float32Array.of(0.5, 2).buffer), 32);
  const stored = (/** @type {keyof typeof dims} */ name, /** @type {number} */ offset) => ({
    ...{ name, dims: dims[name], dataType: name === 'scales' ? FLOAT32 : UINT8, rawData: null, bytes: data },
    external: { location: 'x', offset, length: null },
  });
  const blocks = { rows: 2, columns: 16, bits: 8, blockSize: 16, zeroPoints: stored('zeros', 40) };
  const values = unpack({ ...blocks, codes: stored('codes', 0), scales: stored('scales', 32) }, data);
  assert.deepEqual([values[0], values[15], values[16], values[31]], [-20, -12.5, -50, -20]);
});

test('an entry of a tensor without a length is none, not 0', () => {
  const text = (/** @type {string} */ key, /** @type {string} */ value) => field(13, [field(1, key), field(2, value)]);
  const tensor = serialize([field(8, 'codes'), text('location', 'data'), text('offset', '4096')]);
  const [found] = readModel(serialize([field(7, [field(5, tensor)])]), 'a.onnx').initializers;
  assert.deepEqual(found.external, { location: 'data', offset: 4096, length: null });
});

test('a failure in WebAssembly is not taken for a full heap', async () => {
  const heapOf = (/** @type {number} */ byteLength) => ({ HEAPU8: { byteLength } });
  /** @type {[unknown, number, RegExp][]} */
  const failures = [
    [
      new WebAssembly.RuntimeError('memory access out of bounds'),
      1e6,
      /cannot run the decoder and must be started anew/,
    ],
    [new WebAssembly.RuntimeError('unreachable'), 2 ** 32, /cannot run the decoder and .*\(unreachable\)/],
    [new TypeError('x is undefined'), 1e6, /cannot run the decoder and .*\(x is undefined\)/],
    [12345, 1e6, /cannot run the decoder/],
    [12345, 2 ** 32 - 2 ** 16, /too large for the heap/],
    [new WebAssembly.RuntimeError('Aborted(OOM)'), 1e6, /too large for the heap/],
    [new PackageError('codes lie outside'), 1e6, /^codes lie outside$/],
  ];
  for (const [thrown, nbytes, message] of failures) {
    const call = inHeap(heapOf(nbytes), 'run the decoder', () => Promise.reject(thrown));
    await assert.rejects(call, { name: 'PackageError', message });
  }
});
