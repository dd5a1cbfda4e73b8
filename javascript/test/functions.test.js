import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { CleanUp } from '../src/clean_up.js';
import { METADATA_KEY, readDescription } from '../src/description.js';
import { FullWindow, countBonuses } from '../src/eviction.js';
import { DEFAULTS, optionsFromGenerationConfig, withOverrides } from '../src/generation_options.js';
import { PackageError } from '../src/errors.js';
import { Heap } from '../src/heap.js';
import { LogitsProcessors } from '../src/logits_processors.js';
import { tokenLogprobs } from '../src/logprobs.js';
import { FLOAT32, UINT8, readModel } from '../src/onnx_graph.js';
import { Guesses } from '../src/prompt_lookup.js';
import { field, serialize } from '../src/protobuf.js';
import { Pcg64 } from '../src/random.js';
import { candidates, largest, sample } from '../src/sampling.js';
import { readStateFile, writeStateFile } from '../src/state_file.js';
import { StopStrings } from '../src/stopping.js';
import { unpack } from '../src/unpacking.js';
import { camelCase, folderOf, vectors, work } from './vectors.js';

const { cases } = vectors;
const DESCRIBED = {
  vocab_size: 9,
  keep_window_size: 20,
  num_layers: 1,
  num_kv_heads: 1,
  num_recurrent_heads: 1,
  channels: 16,
  head_dim: 8,
  mask_channels: 1,
  weights_sha256: 'a',
};

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

test('a rule of eviction and its format belong together', () => {
  const described = { keep_sinks: 2, keep_bonus: 60, keep_recent: 6, format_version: 76, ...DESCRIBED };
  const read = (/** @type {object} */ changes) =>
    readDescription(new Map([[METADATA_KEY, JSON.stringify({ ...described, ...changes })]]), 'decoder.onnx');
  const { keepSinks, keepBonus, keepRecent } = read({});
  assert.deepEqual([keepSinks, keepBonus, keepRecent], [2, 60, 6]);
  for (const wrong of [{ format_version: 36 }, { keep_recent: 0 }, { keep_recent: -1 }, { keep_bonus: '60' }]) {
    assert.throws(
      () => read(wrong),
      /^PackageError: decoder.onnx has decoder format .*; (export|update it, or export)/,
    );
  }
});

test('guesses are those of Python, where checks cost the same', () => {
  for (const { costs, prompt, answer, guesses } of cases.guessed) {
    const lookup = new Guesses(7, costs);
    lookup.read(prompt);
    const found = answer.map((/** @type {number} */ tokenId) => {
      lookup.follow(tokenId);
      return lookup.guess(7);
    });
    assert.deepEqual(found, guesses);
    assert.ok(found.some((/** @type {number[]} */ some) => some.length > 2));
  }
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

test('the same keys are evicted, with ties, sinks, bonuses and safe keys', () => {
  for (const { rule, begin, steps } of cases.evicted) {
    const own = { keepSinks: rule.sinks, keepBonus: rule.bonus, keepRecent: rule.recent };
    const window = new FullWindow(Float32Array.from(begin.precedence), Uint32Array.from(begin.positions), 2, own);
    let position = 6;
    for (const step of steps) {
      const chosen = window.candidates(step.new.length / 2, position);
      assert.deepEqual([[...chosen.slots], [...chosen.precedence]], [step.slots, step.compared], JSON.stringify(rule));
      window.admit(() => {}, chosen, Float32Array.from(step.new), position);
      position += step.new.length / 2;
      assert.deepEqual([[...window.precedence], [...window.positions]], [step.precedence, step.positions]);
    }
  }
});

test('a stream far along evicts the keys that it evicts at the beginning', () => {
  const rule = { keepSinks: 0, keepBonus: 60, keepRecent: 2 };
  const far = 2 ** 31 + 12_345; // positions beyond the whole numbers of float32
  const [near, moved] = [0, far].map((start) => {
    const positions = Uint32Array.of(0, 1, 3, 5, 6).map((position) => position + start);
    return new FullWindow(Float32Array.of(7, 7, 4, 3, 0), positions, 1, rule).candidates(3, 7 + start);
  });
  assert.deepEqual([near.slots, near.precedence], [Uint32Array.of(0, 2, 1, 3, 4), Float32Array.of(0, 0, 1, 1, -1)]);
  assert.deepEqual([moved.slots, moved.precedence], [near.slots, near.precedence]);
});

test('a state of another rule, or without its last keys, is refused in one sentence', () => {
  const graph = new Uint8Array(readFileSync(`${folderOf('bonuses')}/onnx/decoder.onnx`));
  const own = readDescription(readModel(graph, 'decoder.onnx').metadata, 'decoder.onnx');
  const saved = new Uint8Array(readFileSync(`${work}/bonuses-standard-70.safetensors`));
  const content = readStateFile(saved, own);
  for (const other of [{ keepBonus: 40 }, { keepRecent: 0 }])
    assert.throws(() => readStateFile(saved, { ...own, ...other }), {
      name: 'StateError',
      message: /its own has keep_(bonus 90|recent 16), this one (40|0); load it with the model that made it$/,
    });
  const keyPositions = Uint32Array.from(content.keyPositions ?? []);
  const lane = keyPositions.subarray(0, own.keepWindowSize);
  const free = Array.from({ length: content.position }, (_, i) => i).filter((position) => !lane.includes(position));
  lane[lane.indexOf(content.position - 1)] = free[0];
  const damaged = writeStateFile(own, { ...content, keyPositions });
  assert.throws(() => readStateFile(damaged, own), /damaged: the positions of its keys are impossible$/);
});

test('bonuses are whole, bounded and rounded to even as in Python', () => {
  for (const { keep_bonus: most, precedence, bonuses } of cases.counted)
    assert.deepEqual([...countBonuses(Float32Array.from(precedence), most)], bonuses);
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

test('the k-th largest is that of a sort, and comes sooner', () => {
  const generator = new Pcg64(1n);
  const drawn = (/** @type {number} */ n) =>
    Float32Array.from({ length: n }, () => Math.round(generator.random() * 2000));
  for (const n of [1, 2, 7, 100, 3000]) {
    for (const k of [1, 2, 7, 50, n]) {
      if (k > n) continue;
      const values = drawn(n);
      if (n > 7) values[3] = -Infinity;
      for (const given of [values, values.slice().sort()]) assert.equal(largest(given, k), given.slice().sort()[n - k]);
    }
  }
  const logits = drawn(32_768);
  const fastest = (/** @type {() => void} */ call) => Math.min(...Array.from({ length: 9 }, () => ms(call)));
  const sorting = fastest(() => logits.slice().sort());
  const finding = fastest(() => largest(logits, 50));
  assert.ok(3 * finding < sorting, `${finding} and ${sorting} ms`);
});

/** @param {() => void} call */
function ms(call) {
  const start = performance.now();
  call();
  return performance.now() - start;
}

test('a failure in WebAssembly is not taken for a full heap', async () => {
  const heapOf = (/** @type {number} */ byteLength) => new Heap({ HEAPU8: { byteLength } }, '');
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
    const call = heapOf(nbytes).call('run the decoder', () => Promise.reject(thrown));
    await assert.rejects(call, { name: 'PackageError', message });
  }
});
