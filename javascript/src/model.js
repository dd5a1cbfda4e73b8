/**
 * An exported folder as a language model: text or token ids in, text out. docs/javascript.md has examples.
 */

import { OptionError, PackageError, shown } from './errors.js';
import { generateTokens } from './generation.js';
import { withOverrides } from './generation_options.js';
import { PromptLookup } from './prompt_lookup.js';
import { PromptReader } from './prompts.js';
import { TextStream } from './streaming.js';

/** @typedef {import('./generation_options.js').GenerationOverrides} GenerationOverrides */
/** @typedef {import('./generation_options.js').GenerationOptions} GenerationOptions */
/** @typedef {import('./prompts.js').Prompt} Prompt */
/** @typedef {import('./state.js').State} State */
/** @typedef {import('./streaming.js').GenerationResult} GenerationResult */

/**
 * Of `generate` and `stream`. A state is one stream of tokens, and the call advances it in place. onPrompt is told how
 * many tokens of a long prompt are fed, and of how many.
 * @typedef {GenerationOverrides & {state?: State, signal?: AbortSignal, onPrompt?: (fed: number, of: number) => void}} CallOptions
 */

/** @typedef {CallOptions & {chatTemplate?: string}} ChatOptions chatTemplate: a name among the folder's, or Jinja */

export class Model {
  /**
   * @param {import('./decoder.js').Decoder} decoder @param {import('./tokenizer.js').Tokenizer | null} tokenizer
   * @param {import('./generation_options.js').GenerationDefaults} defaults @param {string} name
   * @param {string | null} [unkept]
   */
  constructor(decoder, tokenizer, defaults, name, unkept = null) {
    this.decoder = decoder;
    this.defaults = defaults;
    this.name = name;
    /** Why the files are not kept for offline use; null where they are, or need not be. */
    this.unkept = unkept;
    this.reader = new PromptReader(tokenizer, decoder.vocabSize, name);
  }

  /**
   * Continue a text or token ids.
   * @overload
   * @param {Prompt} prompt @param {CallOptions} [options]
   * @returns {Promise<GenerationResult>}
   */
  /**
   * A list of prompts gives a list of results, computed one after the other: with a seed, prompt i has the seed + i.
   * @overload
   * @param {readonly Prompt[]} prompt @param {CallOptions} [options]
   * @returns {Promise<GenerationResult[]>}
   */
  /**
   * @param {Prompt | readonly Prompt[]} prompt @param {CallOptions} [options]
   * @returns {Promise<GenerationResult | GenerationResult[]>}
   */
  async generate(prompt, options = {}) {
    if (isListOfPrompts(prompt)) return this.generateEach(prompt, options);
    return this.answer(/** @type {Prompt} */ (prompt), options).readAll();
  }

  /**
   * Like `generate`, but the text comes in pieces while it is made; `result` is there behind the last one.
   * @param {Prompt} prompt
   * @param {CallOptions} [options]
   */
  stream(prompt, options = {}) {
    void this.tokenizer;
    return this.answer(prompt, options);
  }

  /**
   * Answer a conversation, a list of {role, content}: a stream of pieces with `stream: true`, else a promise of the
   * result. With a `state` that holds tokens already, `messages` are those that follow.
   * @template {boolean} [S=false]
   * @param {unknown} messages @param {ChatOptions & {stream?: S}} [options]
   * @returns {S extends true ? TextStream : Promise<GenerationResult>}
   */
  chat(messages, options) {
    const { stream = false, chatTemplate, ...rest } = options ?? {};
    /** @type {any} */
    let answer;
    if (stream) answer = this.chatStream(messages, chatTemplate, rest);
    else answer = (async () => this.chatStream(messages, chatTemplate, rest).readAll())();
    return answer;
  }

  /** An empty stream. */
  newState() {
    return this.decoder.newState();
  }

  /**
   * Feed `prompt` to `state`, or to a new one, without an answer; resolves to that state.
   * @param {Prompt} prompt
   * @param {{state?: State, signal?: AbortSignal, onPrompt?: (fed: number, of: number) => void}} [options]
   */
  async prefill(prompt, { state, signal, onPrompt } = {}) {
    if (state !== undefined) this.decoder.checkState(state);
    const ids = this.reader.nextIds(prompt, state);
    const fed = state ?? this.newState();
    await this.decoder.forward(fed, ids, { signal, onPrompt });
    return fed;
  }

  /** The state that `state.save()` gave, here or in Python. @param {Uint8Array} bytes */
  loadState(bytes) {
    return this.decoder.loadState(bytes);
  }

  /** Logits after every token of a sequence from its start. @param {ArrayLike<number>} tokenIds */
  async logits(tokenIds) {
    const state = this.newState();
    try {
      const ids = this.reader.checkedIds(tokenIds);
      return (await this.decoder.forward(state, ids, { count: ids.length })).map((row) => row.slice());
    } finally {
      state.dispose();
    }
  }

  /** Number of tokens that `generate` feeds for a text. @param {Prompt} prompt */
  countTokens(prompt) {
    return this.reader.nextIds(prompt).length;
  }

  /** Tokens that the model sees at once, its window. A stream may be longer: then it evicts keys. */
  get contextSize() {
    return this.decoder.description.keepWindowSize;
  }

  /** The folder's tokenizer; PackageError when it has none. */
  get tokenizer() {
    return this.reader.tokenizer;
  }

  /** Whether `chat` can be used. */
  get hasChatTemplate() {
    return this.reader.given !== null && this.reader.given.chatTemplates.size > 0;
  }

  /** The folder's default template and tokenizer as `chat` uses them. */
  get chatPrompt() {
    return this.reader.chatPrompt();
  }

  /** Tokens that end an answer of `chat`: the folder's, the tokenizer's, and the end that the template writes. */
  get turnEnds() {
    return this.endsOf(this.hasChatTemplate ? this.chatPrompt : null);
  }

  /** @param {readonly Prompt[]} prompts @param {CallOptions} options */
  async generateEach(prompts, options) {
    if (options.state != null) {
      throw new OptionError('a list of prompts takes no state; give one prompt, or leave the state out');
    }
    const { seed } = this.options(options);
    prompts.forEach((prompt) => this.reader.nextIds(prompt)); // all are read before the first is answered
    const results = [];
    for (const [i, prompt] of prompts.entries()) {
      const own = seed === null ? options : { ...options, seed: seed + BigInt(i) };
      results.push(await this.answer(prompt, own).readAll());
    }
    return results;
  }

  /** Give the model's memory back. */
  async dispose() {
    await this.decoder.dispose();
  }

  /** @param {Prompt} prompt @param {CallOptions} options */
  answer(prompt, options) {
    this.checkState(options.state);
    return this.continue(this.reader.nextIds(prompt, options.state), options, this.defaults.eosTokenIds);
  }

  /** @param {unknown} messages @param {string | undefined} chatTemplate @param {CallOptions} options */
  chatStream(messages, chatTemplate, options) {
    this.checkState(options.state);
    const prompt = this.reader.chatPrompt(chatTemplate);
    const ends = this.endsOf(prompt);
    return this.continue(this.reader.messageIds(messages, prompt, ends, options.state), options, ends);
  }

  /** @param {State | undefined} state */
  checkState(state) {
    if (state !== undefined && state !== null) this.decoder.checkState(state);
  }

  /**
   * The folder's default options with the given ones in place; OptionError for one that is not allowed.
   * @param {CallOptions} callOptions
   */
  options({ state: _state, signal: _signal, onPrompt: _onPrompt, ...overrides }) {
    return withOverrides(this.defaults.options, overrides);
  }

  /**
   * Feed exactly these tokens, whatever the unfed token of a state, and stream the answer.
   * @param {readonly number[]} tokenIds @param {CallOptions} callOptions @param {ReadonlySet<number>} ends
   * @param {import('./generation.js').GenerationCalls} [calls]
   */
  continue(tokenIds, callOptions, ends, calls) {
    const { state: given, signal, onPrompt } = callOptions;
    const options = this.options(callOptions);
    if (options.stop.length) void this.tokenizer;
    const beyond = options.forcedEosTokenId.filter((id) => id >= this.decoder.vocabSize);
    if (beyond.length) {
      throw new OptionError(
        `forcedEosTokenId is ${shown(options.forcedEosTokenId)}; its ids must be from 0 to ${this.decoder.vocabSize - 1}`,
      );
    }
    const state = given ?? this.newState();
    const guesses = options.promptLookupNumTokens;
    const lookup = guesses ? new PromptLookup(this.decoder, guesses, calls?.pastIds) : null;
    const tokens = generateTokens(this.decoder, state, tokenIds, options, this.stopIds(options, ends), {
      ...calls,
      lookup,
      signal,
      onPrompt,
    });
    const onEnd = given ? undefined : () => state.dispose();
    return new TextStream(tokens, this.reader.given, options.stop, tokenIds.length, onEnd, lookup);
  }

  /**
   * Tokens that end an answer, and special tokens named as stop strings.
   * @param {GenerationOptions} options
   * @param {ReadonlySet<number>} ends
   */
  stopIds(options, ends) {
    const named = options.stop.map((text) => this.reader.given?.specialId(text) ?? null);
    return new Set([...(options.ignoreEos ? [] : ends), ...named.filter((id) => id !== null)]);
  }

  /**
   * Tokens that end an answer to messages that a template has written.
   * @param {import('./chat_prompt.js').ChatPrompt | null} prompt
   */
  endsOf(prompt) {
    const ends = [this.tokenizer.specialId(this.tokenizer.specialTokens.eos_token ?? ''), prompt?.turnEnd ?? null];
    return new Set([...this.defaults.eosTokenIds, ...ends.filter((id) => id !== null)]);
  }
}

/** @param {unknown} prompt @returns {prompt is readonly Prompt[]} */
function isListOfPrompts(prompt) {
  const [first] = Array.isArray(prompt) ? prompt : [];
  return typeof first === 'string' || Array.isArray(first) || ArrayBuffer.isView(first);
}

/**
 * Refuse a tokenizer with more tokens than the model has.
 * @param {import('./tokenizer.js').Tokenizer | null} tokenizer
 * @param {number} vocabSize
 */
export function checkTokenizer(tokenizer, vocabSize) {
  if (tokenizer !== null && tokenizer.vocabSize > vocabSize) {
    throw new PackageError(
      `tokenizer.json has ${tokenizer.vocabSize} tokens, but the model ${vocabSize}, so it belongs to another model; copy the ` +
        'folder again, or export the checkpoint again',
    );
  }
}
