import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CleanUp } from '../src/clean_up.js';
import { METADATA_KEY, readDescription } from '../src/description.js';
import { FullWindow } from '../src/eviction.js';
import { DEFAULTS, optionsFromGenerationConfig, withOverrides } from '../src/generation_options.js';
import { LogitsProcessors } from '../src/logits_processors.js';
import { Pcg64 } from '../src/random.js';
import { candidates, sample } from '../src/sampling.js';
import { StopStrings } from '../src/stopping.js';
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
