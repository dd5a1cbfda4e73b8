/**
 * A conversation that keeps the decoder's state between turns, so that nothing said is ever computed again.
 *
 * Its files are those of Python's `runtime/conversation.py`: `doge-chat --resume` goes on with them, and this with
 * those of `/save-state` and `/save`. One with an adapter is that of the model which `withAdapter` gave.
 */

import { checkCall } from './call_options.js';
import { checkMessages } from './chat_template.js';
import { OptionError, StateError, oneLine, shown } from './errors.js';
import { SharedPrefix, sharedLength } from './prefix.js';
import { isTranscript, readTurns } from './transcript.js';

/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./streaming.js').TextStream} TextStream */
/** @typedef {{role: string, content: string}} TextMessage */

const METADATA_KEY = 'conversation'; // under which the state's metadata holds the transcript

/**
 * Each turn renders the whole conversation by the chat template and feeds the tokens that the state does not hold yet. A
 * model without chat template continues one growing text instead.
 *
 * Where something fed has to be taken back, the state is truncated. Once its window overflows it cannot be. So a turn
 * that may go beyond the window begins with a copy of the state: a conversation has two states at most.
 */
export class Conversation {
  /** OptionError where a system message is given for a model without chat template. */
  constructor(/** @type {Model} */ model, /** @type {{system?: string}} */ options = {}) {
    checkCall(options);
    const { system, ...others } = options;
    if ('adapter' in others)
      throw new OptionError(
        'a conversation has the adapter of its model; give it that of await model.withAdapter(name)',
      );
    if (model.hasChatTemplate) void model.chatPrompt; // PackageError here, rather than at the first question
    void model.tokenizer;
    if (system !== undefined && typeof system !== 'string')
      throw new OptionError(`system is ${shown(system)}; it must be a string`);
    if (system !== undefined && !model.hasChatTemplate) {
      throw new OptionError(`the model ${shown(model.name)} has no chat template; leave the system message away`);
    }
    this.model = model;
    /** @type {TextMessage[]} */
    this.messages = system === undefined ? [] : [{ role: 'system', content: system }];
    this.prefix = new SharedPrefix(model.decoder);
    /** @type {number[]} */
    this.tokens = []; // the conversation's, the last answer's included, and the text they stand for
    this.text = '';
    /** @type {number[][]} */
    this.turns = []; // messages, tokens and characters (code points, as in Python) before each turn
    /** @type {object | null} */
    this.asking = null; // the last question's own mark
  }

  /**
   * The conversation that `save` gave, here or in Python; or one that `doge-chat` wrote by /save.
   * @param {Model} model
   * @param {Uint8Array} bytes
   */
  static resume(model, bytes) {
    if (isTranscript(bytes)) {
      const { system, turns } = readTurns(bytes);
      return new Conversation(model, { system }).withTurns(turns);
    }
    const state = model.loadState(bytes);
    try {
      const { [METADATA_KEY]: saved, ...rest } = state.metadata;
      if (saved === undefined)
        throw new StateError('the file holds a state without a conversation; open it with loadState');
      const found = transcript(saved, state);
      const conversation = new Conversation(model);
      conversation.prefix.dispose();
      state.metadata = rest;
      return Object.assign(conversation, found, { prefix: new SharedPrefix(model.decoder, state, found.tokens) });
    } catch (error) {
      state.dispose();
      throw error;
    }
  }

  /** The stream that holds the conversation, but for the last answer's last token. */
  get state() {
    return this.prefix.state;
  }

  /** The bytes of a state file with the transcript in its metadata. */
  save() {
    this.prefix.holdOnly(this.tokens); // and nothing of a question that was never answered
    const { messages, tokens, text, turns } = this;
    this.state.metadata[METADATA_KEY] = JSON.stringify({ messages, tokens, text, turns });
    return this.state.save();
  }

  /**
   * Put the next user message; the pieces of the answer, whose `result` is there behind the last one. The turn is taken
   * in when the stream ends or is closed, if there is an answer by then. An error leaves the conversation usable.
   * @param {string} text @param {import('./model.js').CallOptions} [options]
   */
  ask(text, options = {}) {
    if (typeof text !== 'string' || !text)
      throw new OptionError(`the message is ${shown(text)}; write at least one character`);
    checkCall(options);
    const { model, prefix } = this;
    model.adapterOf({ ...options, state: prefix.state });
    const { maxNewTokens } = model.options(options); // OptionError here, before anything is taken back
    const asked = [...this.messages, { role: 'user', content: text }];
    const { rendered, tokenIds } = this.read(asked, text);
    const past = tokenIds.slice(0, sharedLength(this.tokens, tokenIds.slice(0, -1)));
    prefix.holdOnly(past);
    const { position } = prefix.state;
    // where it had to go back further, the past is fed by itself, for a copy to hold it
    const missing = past.length - position > 1 ? past.slice(position) : [];
    const from = position + missing.length;
    const asking = (this.asking = {});
    const stream = model.continue(tokenIds.slice(from), { ...options, state: prefix.state }, model.turnEnds, {
      pastIds: tokenIds.slice(0, from),
      begin: () => {
        if (this.asking !== asking) throw new StateError('another message came before this answer was read; ask again');
        return this.begin(tokenIds, missing, maxNewTokens, options.signal);
      },
    });
    stream.onEnd = () => {
      if (stream.tokenIds.length && this.asking === asking) this.record(asked, tokenIds, rendered, stream);
    };
    return stream;
  }

  /** Give the memory of the state back. */
  dispose() {
    this.prefix.dispose();
  }

  /**
   * The whole conversation with a question as text and as tokens.
   * @param {TextMessage[]} asked @param {string} text the question
   */
  read(asked, text) {
    const { model } = this;
    if (model.hasChatTemplate) {
      const rendered = model.chatPrompt.render(asked);
      return { rendered, tokenIds: model.reader.checkedTokens(this.continued(rendered)) };
    }
    const ids = model.tokenizer.encode(text, { addSpecialTokens: !this.tokens.length });
    return { rendered: this.text + text, tokenIds: model.reader.checkedTokens([...this.tokens, ...ids]) };
  }

  /**
   * Token ids of a rendered text, beginning with those of the conversation so far where that is possible. It is not
   * when the template writes the past otherwise than it was said, a shortened answer for example.
   * @param {string} rendered
   */
  continued(rendered) {
    const { tokenizer, chatPrompt } = this.model;
    const decoded = (/** @type {number[]} */ ids) => tokenizer.decode(ids, { skipSpecialTokens: false });
    const whole = chatPrompt.encode(rendered);
    for (const { ids, text } of this.waysToGoOn()) {
      if (!text || !rendered.startsWith(text)) continue;
      const continued = [...ids, ...chatPrompt.encode(rendered.slice(text.length))];
      // a tokenizer that puts a space before every text has put one in the middle; the two then differ
      if (decoded(continued) === decoded(whole)) return continued;
    }
    return whole;
  }

  waysToGoOn() {
    const ways = [{ ids: this.tokens, text: this.text }];
    const last = this.tokens.slice(-1);
    // the model may end its answer by another token than the template writes there
    if (last.length && this.model.turnEnds.has(last[0])) {
      const end = this.model.tokenizer.decode(last, { skipSpecialTokens: false });
      const text = end && this.text.endsWith(end) ? this.text.slice(0, -end.length) : this.text;
      ways.push({ ids: this.tokens.slice(0, -1), text });
    }
    return ways;
  }

  /**
   * Feed what the state lacks of the past, and copy it where the turn may go beyond the window.
   * @param {number[]} tokenIds @param {number[]} missing @param {number} maxNewTokens @param {AbortSignal} [signal]
   */
  async begin(tokenIds, missing, maxNewTokens, signal) {
    const { model, prefix } = this;
    prefix.tokens = [...tokenIds];
    if (missing.length) await model.decoder.forward(prefix.state, missing, { signal });
    if (tokenIds.length + maxNewTokens > model.contextSize) prefix.remember();
    else prefix.forget();
  }

  /**
   * Take a finished turn in.
   * @param {TextMessage[]} asked @param {number[]} promptIds @param {string} rendered @param {TextStream} stream
   */
  record(asked, promptIds, rendered, stream) {
    const { model } = this;
    this.noteTurn();
    this.messages = [...asked, { role: 'assistant', content: stream.text }];
    let answer = stream.tokenIds;
    // a growing text goes on after the answer, not after its end
    if (!model.hasChatTemplate && model.turnEnds.has(answer[answer.length - 1])) answer = answer.slice(0, -1);
    this.tokens = [...promptIds, ...answer];
    this.prefix.tokens = [...this.tokens];
    this.text = rendered + model.tokenizer.decode(answer, { skipSpecialTokens: false });
  }

  noteTurn() {
    this.turns.push([this.messages.length, this.tokens.length, [...this.text].length]);
  }

  /**
   * Take in turns of which only the text is known; their tokens are fed with the next message.
   * @param {readonly [string, string][]} turns
   */
  withTurns(turns) {
    const { hasChatTemplate, tokenizer } = this.model;
    for (const [question, answer] of turns) {
      this.noteTurn();
      this.messages.push({ role: 'user', content: question }, { role: 'assistant', content: answer });
      if (hasChatTemplate) continue; // the template writes all of it anew
      this.tokens.push(...tokenizer.encode(question, { addSpecialTokens: !this.tokens.length }));
      this.tokens.push(...tokenizer.encode(answer, { addSpecialTokens: false }));
      this.text += question + answer;
    }
    return this;
  }
}

/** @param {string} saved JSON @param {import('./state.js').State} state */
function transcript(saved, state) {
  const { messages: given, tokens, text, turns } = parsed(saved);
  const messages = checkedMessages(given);
  const isCount = (/** @type {unknown} */ n) => Number.isSafeInteger(n) && Number(n) >= 0;
  const isKnown = (/** @type {unknown} */ id) => isCount(id) && Number(id) < state.description.vocabSize;
  if (typeof text !== 'string' || !Array.isArray(tokens) || !tokens.every(isKnown))
    throw damaged("its tokens are not the model's, or its text is no string");
  const isTurn = (/** @type {unknown} */ turn) => Array.isArray(turn) && turn.length === 3 && turn.every(isCount);
  if (!Array.isArray(turns) || !turns.every(isTurn)) throw damaged('its turns are not whole numbers');
  if (tokens.length < state.position || !turns.every(([before]) => before < messages.length))
    throw damaged('it is shorter than its state or its turns');
  return { messages, tokens, text, turns };
}

/** @param {string} saved @returns {Record<string, any>} */
function parsed(saved) {
  try {
    return Object(JSON.parse(saved));
  } catch (error) {
    throw damaged(oneLine(error));
  }
}

/** @param {unknown} given @returns {TextMessage[]} */
function checkedMessages(given) {
  if (Array.isArray(given) && !given.length) return [];
  try {
    return /** @type {TextMessage[]} */ (checkMessages(given));
  } catch (error) {
    if (error instanceof OptionError) throw damaged(error.message);
    throw error;
  }
}

/** @param {string} fault */
function damaged(fault) {
  return new StateError(`the file holds a damaged conversation: ${fault}`);
}
