/** The package as npm packs and installs it, in a folder of its own. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { folderOf } from './vectors.js';

const PACKAGE = fileURLToPath(new URL('../', import.meta.url));
const INSTALL = ['install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', '--fetch-retries=0'];
const UNREACHABLE = /ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNREFUSED|ECONNRESET|ENOTCACHED/;
const CHAT = `
import { load } from 'doge-export';
const model = await load(process.argv[2], { executionProviders: ['wasm'] });
console.log((await model.generate([5, 6, 7], { maxNewTokens: 3, ignoreEos: true })).tokenIds.length);
await model.dispose();
`;

// of a strict project, whose last line is to be wrong
const TYPED = `
import { Conversation, load, type Model, type TextStream } from 'doge-export';
const model: Model = await load('folder', { threads: 2, executionProviders: ['cpu'] });
const stream: TextStream = model.stream('Once', { maxNewTokens: 5, topP: 0.9 });
for await (const piece of stream) console.log(piece.length, stream.result.decodeTokensPerS);
const results = await model.generate(['One', [1, 2]], { adapter: [null, 'legal'] });
const chat = (await model.chat([{ role: 'user', content: 'a' }], { signal: new AbortController().signal })).text;
const talk: Conversation = Conversation.resume(model, new Uint8Array());
const bytes: Uint8Array = (await model.prefill('a')).copy().save();
console.log(results[0].tokenIds, chat.length, talk.messages, bytes);
export const wrong: string = results[0].promptTokens;
`;

describe('the packed package', () => {
  let folder = '';
  let reason = ''; // that it cannot be installed here

  /** @param {string} command @param {string[]} given @returns {Promise<{code: number, out: string, err: string}>} */
  const run = (command, given) =>
    new Promise((resolve) => {
      execFile(command, given, { cwd: folder }, (error, out, err) => {
        resolve({ code: Number(error?.code ?? 0), out, err });
      });
    });
  const assembled = (/** @type {string} */ to) => run('node_modules/.bin/doge-export-assemble', [to]);

  /** @param {string[]} names */
  async function installed(...names) {
    const { code, err } = await run('npm', [...INSTALL, ...names]);
    if (UNREACHABLE.test(err)) reason = `npm cannot reach its registry: ${err.split('\n')[0]}`;
    else assert.equal(code, 0, err);
  }

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'doge-packed-'));
    await writeFile(join(folder, 'package.json'), '{"private": true, "type": "module"}');
    const { out } = await run('npm', ['pack', PACKAGE, '--silent']);
    await installed(`./${out.trim().split('\n').at(-1)}`);
  });
  after(() => rm(folder, { recursive: true }));

  test('without onnxruntime-web it is assembled for no page, and says so', async (context) => {
    if (reason) return context.skip(reason);
    const { code, err } = await assembled('public/doge');
    assert.equal(code, 1);
    assert.match(err, /^doge-export-assemble: onnxruntime-web is not installed, .*; run npm install \S+\n$/);
    assert.equal(existsSync(join(folder, 'public')), false);
  });

  test('with it, Node and pages have all that they need', async (context) => {
    await installed(
      `onnxruntime-web@${JSON.parse(await readFile(join(PACKAGE, 'package.json'), 'utf-8')).devDependencies['onnxruntime-web']}`,
    );
    if (reason) return context.skip(reason);
    await writeFile(join(folder, 'chat.js'), CHAT);
    assert.deepEqual(await run('node', ['chat.js', folderOf('native')]), { code: 0, out: '3\n', err: '' });
    for (let i = 0; i < 2; i++) assert.deepEqual(await assembled('public/doge'), { code: 0, out: '', err: '' });
    assert.deepEqual(await readdir(join(folder, 'public')), ['doge']);
    const { all, webgpu } = JSON.parse(await readFile(join(folder, 'public/doge/files.json'), 'utf-8'));
    for (const file of [...all, ...webgpu]) assert.ok(existsSync(join(folder, 'public/doge', file)), file);
  });

  test('a strict project in TypeScript reads its types', async (context) => {
    if (reason) return context.skip(reason);
    await writeFile(join(folder, 'talk.ts'), TYPED);
    const options = [
      '--strict',
      '--skipLibCheck',
      '--noEmit',
      '--module',
      'nodenext',
      '--target',
      'es2022',
      '--types',
      'node',
    ];
    const types = ['--typeRoots', join(PACKAGE, 'node_modules/@types')];
    const { out } = await run(join(PACKAGE, 'node_modules/.bin/tsc'), [...options, ...types, 'talk.ts']);
    assert.match(out, /^talk\.ts\(11,14\): error TS2322: [^\n]*'number'[^\n]*'string'\.\n$/);
  });

  test('a folder of somebody else is not made anew', async (context) => {
    if (reason) return context.skip(reason);
    await mkdir(join(folder, 'mine'), { recursive: true });
    await writeFile(join(folder, 'mine/page.html'), 'x');
    const { code, err } = await assembled('mine');
    assert.equal(code, 1);
    assert.match(err, /^doge-export-assemble: mine is there, and is none that this program made whole; [^\n]*\n$/);
    assert.deepEqual(await readdir(join(folder, 'mine')), ['page.html']);
  });
});
