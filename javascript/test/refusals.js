/** What a refusal must look like. */

import assert from 'node:assert/strict';

/** A promise that fails with one sentence. @param {Promise<unknown>} promise @param {Function} kind @param {RegExp} message */
export async function rejects(promise, kind, message) {
  await assert.rejects(promise, (/** @type {any} */ error) => {
    assert.equal(error instanceof kind, true, error.stack);
    assert.match(error.message, message);
    assert.ok(!error.message.includes('\n') && !error.message.endsWith('.'), error.message);
    return true;
  });
}
