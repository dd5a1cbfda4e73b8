/** Files of adapters that are damaged, of another base or missing. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { readAdapter } from '../src/adapter.js';
import { ADAPTED_FILES, readAdaptedGraphs } from '../src/adapter_graphs.js';
import { PackageError, load } from '../src/index.js';
import { rejects } from './refusals.js';
import { folderOf } from './vectors.js';

const PLAIN = 'onnx/decoder.onnx';
const LEGAL = join(folderOf('adapters'), 'adapters/legal.onnx_adapter');
const PROMPT = [5, 6, 7];
const GREEDY = { temperature: 0, ignoreEos: true, maxNewTokens: 20 };

describe('files of adapters that do not fit', () => {
  const bytes = new Uint8Array(readFileSync(LEGAL));
  const { places, base } = placesOf('adapters');
  const reading = (/** @type {Uint8Array} */ file) => readAdapter(file, 'legal.onnx_adapter', places, base);
  const isRefusal = (/** @type {unknown} */ error) => error instanceof PackageError && !error.message.includes('\n');

  test('a file that is cut anywhere is refused', () => {
    assert.equal(reading(bytes).arrays.size, 23);
    for (let length = 0; length < bytes.length - 4; length += length < 300 ? 1 : 97)
      assert.throws(() => reading(bytes.slice(0, length)), isRefusal, `${length} bytes`);
  });

  test('a damaged byte anywhere is refused, or is one of the numbers', () => {
    for (let at = 0; at < bytes.length; at += at < 1000 ? 1 : 101) {
      const damaged = bytes.slice();
      damaged[at] ^= 0xff;
      try {
        assert.ok(reading(damaged).arrays.size <= 23);
      } catch (error) {
        assert.ok(isRefusal(error), `${at}: ${error}`);
      }
    }
  });

  /** @type {[string, () => Uint8Array, RegExp][]} */
  const wrong = [
    ['nothing', () => new Uint8Array(0), /is no adapter of onnxruntime, or a damaged one \(.*\); export it again/],
    ['a text', () => new TextEncoder().encode('no flatbuffer at all'), /is no adapter of onnxruntime/],
    [
      'another base',
      () => new Uint8Array(readFileSync(join(folderOf('adapters-llama'), 'adapters/legal.onnx_adapter'))),
      /is an adapter of another base; export it with the base of this folder/,
    ],
    [
      'a name',
      () => replaced(bytes, 'layers.1.mlp.down_proj.lora_A', 'layers.7.mlp.down_proj.lora_A'),
      /layers\.7\.mlp\.down_proj\.lora_A of shape \[1,48,4\], for which the base has no place/,
    ],
    [
      'a part',
      () => replaced(bytes, 'gate_up_proj.lora_B.up', 'gate_up_proj.lora_B.op'),
      /lora_B\.op of shape .* no place/,
    ],
  ];
  for (const [name, file, message] of wrong) {
    test(`${name}: ${message.source}`, () => {
      assert.throws(
        () => reading(file()),
        (error) => isRefusal(error) && message.test(/** @type {Error} */ (error).message),
      );
    });
  }

  test('a folder whose files are of another export or missing says so, and opens its base', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'doge-adapters-'));
    await cp(folderOf('adapters'), folder, { recursive: true });
    await writeFile(join(folder, 'adapters/cut.onnx_adapter'), bytes.slice(0, 5000));
    const model = await load(folder, { threads: 1 });
    await rejects(
      model.generate(PROMPT, { adapter: 'cut' }),
      PackageError,
      /^adapters\/cut\.onnx_adapter is no adapter/,
    );
    await rm(join(folder, 'adapters/support.onnx_adapter'));
    await rejects(model.generate(PROMPT, { adapter: 'support' }), PackageError, /support\.onnx_adapter is missing/);
    assert.equal((await model.generate(PROMPT, { ...GREEDY, adapter: 'legal' })).completionTokens, 20);
    await model.dispose();
    const [adapted] = Object.values(ADAPTED_FILES);
    await cp(join(folderOf('adapters-llama'), adapted), join(folder, adapted));
    const mixed = await load(folder, { threads: 1 });
    await rejects(
      mixed.generate(PROMPT, { adapter: 'legal' }),
      PackageError,
      /decoder_adapters\.onnx is damaged, or of another export/,
    );
    assert.equal((await mixed.generate(PROMPT, GREEDY)).completionTokens, 20);
    await mixed.dispose();
    await rm(folder, { recursive: true });
  });
});

/** The places for adapters of a folder, and the number of its base. @param {string} name */
function placesOf(name) {
  const read = (/** @type {string} */ file) => new Uint8Array(readFileSync(join(folderOf(name), file)));
  return readAdaptedGraphs(new Map(Object.values(ADAPTED_FILES).map((file) => [file, read(file)])), read(PLAIN));
}

/** @param {Uint8Array} bytes @param {string} from @param {string} to as long */
function replaced(bytes, from, to) {
  const text = Buffer.from(bytes).toString('latin1');
  assert.ok(text.includes(from));
  return new Uint8Array(Buffer.from(text.replace(from, to), 'latin1'));
}
