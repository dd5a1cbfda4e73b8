/**
 * A conversation that keeps the decoder's state between turns, so that nothing said is ever computed again.
 *
 * Its files are those of Python's `runtime/conversation.py`: `doge-chat --resume` goes on with them, and this with
 * those of `/save-state`.
 */

import { OptionError, StateError, shown } from './errors.js';

/** @typedef {{role: string, content: string}} TextMessage */

const METADATA_KEY = 'conversation'; // under which the state's metadata holds the transcript

export class Conversation {
  /** @param {import('./model.js').Model} model @param {{system?: string}} [options] */
  constructor(model, { system } = {}) {
    this.model = model;
    /** @type {TextMessage[]} */
    this.messages = system === undefined ? [] : [{ role: 'system', content: system }];
    this.state = model.newState();
    /** @type {number[]} */
    this.tokens = []; // the conversation's, the last answer's included, and the text they stand for
    this.text = '';
    /** @type {number[][]} */
    this.turns = []; // messages, tokens and characters before each turn
  }

  /**
   * The conversation that `save` gave, here or in Python.
   * @param {import('./model.js').Model} model
   * @param {Uint8Array} bytes
   */
  static resume(model, bytes) {
    const state = model.loadState(bytes);
    const { [METADATA_KEY]: saved, ...rest } = state.metadata;
    if (saved === undefined)
      throw new StateError('the file holds a state without a conversation; open it with loadState');
    const conversation = new Conversation(model);
    conversation.state.dispose();
    state.metadata = rest;
    Object.assign(conversation, transcript(saved, state), { state });
    return conversation;
  }

  /** The bytes of a state file with the transcript in its metadata. */
  save() {
    this.forgetUnanswered();
    const { messages, tokens, text, turns } = this;
    this.state.metadata[METADATA_KEY] = JSON.stringify({ messages, tokens, text, turns });
    return this.state.save();
  }

  /**
   * Put the next user message; the pieces of the answer, whose `result` is there behind the last one. The turn is taken
   * in when the stream ends or is closed, if there is an answer by then.
   * @param {string} text @param {import('./model.js').CallOptions} [options]
   */
  ask(text, options = {}) {
    if (typeof text !== 'string' || !text)
      throw new OptionError(`the message is ${shown(text)}; write at least one character`);
    const asked = [...this.messages, { role: 'user', content: text }];
    const { model } = this;
    const hasTemplate = model.hasChatTemplate;
    const rendered = hasTemplate ? model.chatPrompt.render(asked) : this.text + text;
    const fed = this.nextIds(rendered, hasTemplate);
    const ends = hasTemplate ? model.endsOf(model.chatPrompt) : model.defaults.eosTokenIds;
    const stream = model.continue(fed, { ...options, state: this.state }, ends);
    const { state } = this;
    stream.onEnd = () => {
      if (stream.tokenIds.length && state === this.state) this.record(asked, fed, rendered, stream);
    };
    return stream;
  }

  /** Give the state's memory back. */
  dispose() {
    this.state.dispose();
  }

  /**
   * Tokens to feed behind those the state holds; where the text goes on otherwise, a new state gets all of it.
   * @param {string} rendered
   * @param {boolean} hasTemplate
   */
  nextIds(rendered, hasTemplate) {
    const { state } = this;
    this.forgetUnanswered();
    const unfed = this.tokens.slice(state.position); // the last one of an answer
    const encode = (/** @type {string} */ text) => this.encode(text, hasTemplate);
    const holds = state.position <= this.tokens.length;
    if (holds && this.text && rendered.startsWith(this.text))
      return [...unfed, ...encode(rendered.slice(this.text.length))];
    // the model may end its answer by another token than the template writes there
    const end = this.model.tokenizer.decode(unfed, { skipSpecialTokens: false });
    const before = this.text.slice(0, this.text.length - end.length);
    if (holds && end && before && this.text.endsWith(end) && rendered.startsWith(before)) {
      this.tokens.length = state.position;
      return encode(rendered.slice(before.length));
    }
    state.dispose();
    this.state = this.model.newState();
    this.tokens = [];
    return encode(rendered);
  }

  /** Take back what the state holds of a question that was never answered, where there is a way back. */
  forgetUnanswered() {
    if (this.state.position > this.tokens.length && !this.state.overflowed) this.state.truncate(this.tokens.length);
  }

  /** @param {string} text @param {boolean} hasTemplate */
  encode(text, hasTemplate) {
    if (hasTemplate) return this.model.chatPrompt.encode(text);
    return this.model.tokenizer.encode(text, { addSpecialTokens: !this.tokens.length });
  }

  /**
   * Take a finished turn in.
   * @param {TextMessage[]} asked @param {number[]} fed @param {string} rendered
   * @param {import('./streaming.js').TextStream} stream
   */
  record(asked, fed, rendered, stream) {
    this.turns.push([this.messages.length, this.tokens.length, this.text.length]);
    this.messages = [...asked, { role: 'assistant', content: stream.text }];
    const held = this.state.position - (stream.tokenIds.length - 1) - fed.length; // tokens before this turn
    this.tokens = [...this.tokens.slice(0, held), ...fed, ...stream.tokenIds];
    this.text = rendered + this.model.tokenizer.decode(stream.tokenIds, { skipSpecialTokens: false });
  }
}

/** @param {string} saved JSON @param {import('./state.js').State} state */
function transcript(saved, state) {
  let found;
  try {
    found = JSON.parse(saved);
  } catch {
    found = null;
  }
  const { messages, tokens, text, turns } = found ?? {};
  const areMessages =
    Array.isArray(messages) &&
    messages.every((each) => typeof each?.role === 'string' && typeof each?.content === 'string');
  const known = (/** @type {unknown} */ id) =>
    Number.isInteger(id) && Number(id) >= 0 && Number(id) < state.description.vocabSize;
  const isWhole =
    areMessages &&
    Array.isArray(turns) &&
    typeof text === 'string' &&
    Array.isArray(tokens) &&
    tokens.every(known) &&
    tokens.length >= state.position;
  if (!isWhole) throw new StateError('the file holds a damaged conversation; save it again');
  return { messages, tokens, text, turns };
}
