/**
 * Messages to token ids: the chat template writes the text, the tokenizer reads it.
 *
 * Special tokens that stand in a message are plain text, as in Python's `runtime/chat_prompt.py`: whoever writes
 * `<|im_end|>` in a question does not end it. Only those that the template writes are special.
 */

import { checkMessages } from './chat_template.js';
import { OptionError } from './errors.js';
import { checkedText } from './tokenizer.js';

/** @typedef {import('./chat_template.js').Message} Message */

const PLACEHOLDER = '\ue000'; // a private character, which no template writes of itself
/** @type {Message[]} */
const PAST = ['user', 'assistant'].map((role) => ({ role, content: PLACEHOLDER }));
const [OPEN, CLOSE] = ['\ufdd0', '\ufdd1']; // around a special token of a message; kept by Unicode for use inside a program

export class ChatPrompt {
  /**
   * @param {import('./chat_template.js').ChatTemplate} template
   * @param {import('./tokenizer.js').Tokenizer} tokenizer
   */
  constructor(template, tokenizer) {
    this.template = template;
    this.tokenizer = tokenizer;
    const longestFirst = tokenizer.specialTexts.filter(Boolean).sort((a, b) => b.length - a.length);
    const special = longestFirst.map((text) => text.replace(/[.*+?^${}()|[\]\\/-]/g, '\\$&')).join('|') || '(?!)'; // nothing
    this.special = new RegExp(special, 'g');
    this.marked = new RegExp(`${OPEN}(${special})${CLOSE}|[${OPEN}${CLOSE}]`);
  }

  /**
   * The template's text, the special tokens of messages marked in it.
   * @param {unknown} messages
   * @param {{addGenerationPrompt?: boolean}} [options]
   */
  render(messages, options) {
    return this.template.render(this.mark(checkMessages(messages)), options);
  }

  /**
   * The template's text for messages behind an answer, from that answer's end on if inAnswer, else after it.
   * @param {unknown} messages @param {boolean} inAnswer
   */
  renderAfter(messages, inAnswer) {
    let before = this.render(PAST, { addGenerationPrompt: false });
    const whole = this.render([...PAST, ...checkMessages(messages)]);
    if (inAnswer) before = before.slice(0, before.lastIndexOf(PLACEHOLDER) + 1);
    if (!before.includes(PLACEHOLDER) || !whole.startsWith(before)) {
      throw new OptionError(
        'the chat template cannot continue a state, because it rewrites earlier messages; give the whole conversation ' +
          'without a state',
      );
    }
    return whole.slice(before.length);
  }

  /** Token ids of a rendered text, marked special tokens as plain text. @param {string} text */
  encode(text) {
    // Text and marked tokens in turn; undefined stands for a single mark, whose token the template has cut in two.
    const [first, ...pieces] = checkedText(text).split(this.marked);
    const ids = this.tokenizer.encode(first, { addSpecialTokens: false });
    pieces.forEach((piece, index) => {
      if (piece) ids.push(...this.encodeBehind(piece, index % 2 === 0));
    });
    if (!ids.length) throw new OptionError('the chat template makes no token of these messages; give other messages');
    return ids;
  }

  /** The special token that the template writes right behind an answer, null where there is none. */
  get turnEnd() {
    let text;
    try {
      text = this.render(PAST, { addGenerationPrompt: false });
    } catch (error) {
      if (error instanceof OptionError) return null; // it takes no such conversation, and nobody has asked for one yet
      throw error;
    }
    const at = text.lastIndexOf(PLACEHOLDER);
    const behind = text.slice(at + 1).trimStart();
    const end = at < 0 ? null : behind.match(this.special)?.[0];
    return end && behind.startsWith(end) ? this.tokenizer.specialId(end) : null;
  }

  /** A copy of plain data with its special tokens marked. @param {any} value @returns {any} */
  mark(value) {
    if (typeof value === 'string') {
      const text = value.replaceAll(OPEN, '').replaceAll(CLOSE, ''); // none can be forged
      return text.replace(this.special, (token) => OPEN + token + CLOSE);
    }
    if (Array.isArray(value)) return value.map((entry) => this.mark(entry));
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, this.mark(entry)]));
  }

  /** Token ids of a piece that other text stands before. @param {string} piece @param {boolean} isMarked */
  encodeBehind(piece, isMarked) {
    // A line end before the piece keeps a tokenizer from putting a space there, as it does where a text begins.
    const lineEnd = this.tokenizer.encode('\n', { addSpecialTokens: false });
    const behind = this.encodePiece(`\n${piece}`, isMarked);
    const fits = lineEnd.every((id, i) => behind[i] === id);
    const ids = fits ? behind.slice(lineEnd.length) : this.encodePiece(piece, isMarked);
    const id = this.tokenizer.specialId(piece);
    if (isMarked && id !== null && ids.includes(id) && piece !== this.tokenizer.specialTokens.unk_token) {
      throw new OptionError(`a message holds ${piece}, which the tokenizer cannot read as plain text; leave it away`);
    }
    return ids;
  }

  /** @param {string} text @param {boolean} isMarked */
  encodePiece(text, isMarked) {
    return isMarked ? this.tokenizer.encodeAsText(text) : this.tokenizer.encode(text, { addSpecialTokens: false });
  }
}
