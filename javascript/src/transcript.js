/** Conversations as JSON, which `doge-chat` writes by /save, and lists of messages: Python's `runtime/transcript.py`. */

import { StateError, oneLine } from './errors.js';

const REMEDY = 'give another file';

/** Whether bytes are JSON, rather than a saved state, which begins with eight bytes of a length. */
export function isTranscript(/** @type {unknown} */ bytes) {
  if (!(bytes instanceof Uint8Array)) return false;
  const text = Array.from(bytes.subarray(0, 64), (byte) => String.fromCharCode(byte)).join('');
  return /^\s*[{[]/.test(text) && !bytes.subarray(0, 8).includes(0);
}

/**
 * The system message of a transcript, or of a list of messages alone, and its questions with their answers.
 * @param {Uint8Array} bytes
 * @returns {{system: string | undefined, turns: [string, string][]}}
 */
export function readTurns(bytes) {
  const said = messagesOf(parsed(bytes));
  const system = said[0]?.role === 'system' ? said.shift()?.content : undefined;
  const inTurn = said.every(({ role }, i) => role === (i % 2 ? 'assistant' : 'user')) && said.length % 2 === 0;
  const areTexts = [system ?? '', ...said.map(({ content }) => content)].every((text) => typeof text === 'string');
  if (!inTurn || !areTexts)
    throw new StateError(`the file holds other messages than questions and answers in turn; ${REMEDY}`);
  const turns = Array.from({ length: said.length / 2 }, (_, i) => [said[2 * i].content, said[2 * i + 1].content]);
  return { system, turns: /** @type {[string, string][]} */ (turns) };
}

/** @param {Uint8Array} bytes */
function parsed(bytes) {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw noTranscript(oneLine(error));
  }
}

/** @param {any} found @returns {{role: string, content: any}[]} */
function messagesOf(found) {
  const messages = Array.isArray(found) ? found : found.messages;
  if (!Array.isArray(messages)) throw noTranscript('it has no list of messages');
  return messages.map((message, i) => {
    for (const name of ['role', 'content'])
      if (message?.[name] == null) throw noTranscript(`message ${i} has no ${name}`);
    return { role: String(message.role), content: message.content };
  });
}

/** @param {string} fault */
function noTranscript(fault) {
  return new StateError(`the file is not a conversation that /save wrote (${fault}); ${REMEDY}`);
}
