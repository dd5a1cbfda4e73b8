/** The time in which a model may compute: `dispose` ends it, behind the step that is running. */

import { StateError } from './errors.js';

export class Lifetime {
  constructor() {
    this.users = 0; // calls that compute now
    /** @type {Promise<void> | null} */
    this.ending = null;
    /** @type {() => void} */
    this.idle = () => {};
  }

  /** StateError once the end has begun. */
  check() {
    if (this.ending) throw new StateError('the model was disposed of; load it again, and its states from their files');
  }

  /**
   * A call that the end waits for. What it returns must not lie in the model's memory.
   * @template T @param {() => Promise<T>} call
   */
  async use(call) {
    this.check();
    this.users++;
    try {
      return await call();
    } finally {
      this.users--;
      if (!this.users) this.idle();
    }
  }

  /** Begin no more calls, wait for those that run, and release the memory once. @param {() => Promise<void>} release */
  end(release) {
    this.ending ??= this.released(release);
    return this.ending;
  }

  /** @param {() => Promise<void>} release */
  async released(release) {
    if (this.users) {
      await new Promise((resolve) => {
        this.idle = () => resolve(null);
      });
    }
    await release();
  }
}
