/** The page of examples/browser in Chromium, as its tests drive it. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));
export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
export const WAIT = { timeout: 300_000 };

/** A server of the page and a model, and the page's address. @param {string} folder @returns {Promise<[import('node:child_process').ChildProcess, string]>} */
export async function served(folder) {
  const server = spawn('python3', [join(ROOT, 'examples/browser/serve.py'), folder, '--port', '0'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const line = await new Promise((resolve) => {
    server.stdout?.once('data', (data) => resolve(String(data)));
  });
  const origin = /http:\S+/.exec(String(line))?.[0] ?? '';
  return [server, `${origin}?model=model/${basename(folder)}`];
}

/** The addresses in a cache storage. @param {import('puppeteer-core').Page} page @param {string} name */
export const keptIn = (page, name) =>
  page.evaluate(async (cache) => (await (await caches.open(cache)).keys()).map(({ url }) => url), name);

/** @param {import('puppeteer-core').Page} page */
export const ready = (page) => page.waitForSelector('#send:not([disabled])', WAIT);

/** @param {import('puppeteer-core').Page} page */
export const idle = (page) =>
  page.waitForFunction(
    () =>
      document.querySelector('#stop')?.hasAttribute('hidden') &&
      !document.querySelector('#send')?.hasAttribute('disabled'),
    WAIT,
  );

/**
 * Write and send a question; it is shown then, and a short answer may be there too.
 * @param {import('puppeteer-core').Page} page @param {string} text
 */
export async function type(page, text) {
  const before = (await shownMessages(page)).length;
  await page.type('#question', text);
  await page.keyboard.press('Enter');
  await page.waitForFunction((count) => document.querySelectorAll('#messages p').length > count, WAIT, before);
}

/** The answer to a message. @param {import('puppeteer-core').Page} page @param {string} text */
export async function ask(page, text) {
  await type(page, text);
  await idle(page);
  assert.equal(
    await page.$eval('#error', (element) => element.hasAttribute('hidden')),
    true,
    await textOf(page, '#error'),
  );
  return (await shownMessages(page)).at(-1) ?? '';
}

/** @param {import('puppeteer-core').Page} page */
export const shownMessages = (page) => page.$$eval('#messages p', (found) => found.map((p) => p.textContent ?? ''));

/** @param {import('puppeteer-core').Page} page @param {string} selector */
export const textOf = (page, selector) => page.$eval(selector, (element) => element.textContent ?? '');

/** How many models the page has in workers; those of threads are not counted. @param {import('puppeteer-core').Page} page */
export const workersOf = (page) => page.workers().filter((worker) => worker.url().endsWith('/worker.js')).length;
