/**
 * Every error that a user can cause, as one tree: DogeError, below it OptionError, PackageError, StateError and
 * RewindError. The text is one sentence with the remedy, as in Python's `doge_export.errors`.
 */

export class DogeError extends Error {
  /** @param {string} message @param {{cause?: unknown}} [options] */
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A prompt or an option lies outside its allowed values. */
export class OptionError extends DogeError {}

/** A folder is no export of doge-export, a damaged one, or cannot be run here. */
export class PackageError extends DogeError {}

/** A saved state cannot be read or used: damaged, of another version, or of another model. */
export class StateError extends DogeError {}

/** A state cannot go back to that position. */
export class RewindError extends DogeError {}

/**
 * The text of another library's error in one line, without a full stop.
 * @param {unknown} error
 */
export function oneLine(error) {
  const text = error instanceof Error ? error.message || error.name : String(error);
  return text.split(/\s+/).filter(Boolean).join(' ').replace(/\.+$/, '').slice(0, 400);
}

/**
 * A value as it may stand in a message.
 * @param {unknown} value
 * @returns {string}
 */
export function shown(value) {
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'bigint' || typeof value === 'number' || value == null) return String(value);
  if (typeof value === 'function' || typeof value === 'symbol') return `a ${typeof value}`;
  try {
    return JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? String(part) : part)).slice(0, 200);
  } catch {
    return 'an object that holds itself';
  }
}
