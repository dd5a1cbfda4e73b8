/**
 * An exported folder as a language model: text or token ids in, text out. docs/javascript.md has examples.
 */

import { checkCall } from './call_options.js';
import { OptionError, shown } from './errors.js';
import { generateTokens } from './generation.js';
import { withOverrides } from './generation_options.js';
import { PromptLookup } from './prompt_lookup.js';
import { PromptReader, areMessages, isListOfPrompts } from './prompts.js';
import { State } from './state.js';
import { TextStream } from './streaming.js';

/** @typedef {import('./decoder.js').Decoder} Decoder */
/** @typedef {import('./generation.js').GeneratedToken} GeneratedToken */
/** @typedef {import('./generation_options.js').GenerationOptions} GenerationOptions */
/** @typedef {import('./prompts.js').Prompt} Prompt */
/** @typedef {import('./streaming.js').GenerationResult} GenerationResult */

/** @typedef {import('./call_options.js').CallOptions} CallOptions */
/** @typedef {import('./call_options.js').ListOptions} ListOptions */
/** @typedef {import('./call_options.js').ChatOptions} ChatOptions */

const BASE = ''; // in place of an adapter's name

export class Model {
  /**
   * @param {Decoder} decoder @param {import('./tokenizer.js').Tokenizer | null} tokenizer
   * @param {import('./generation_options.js').GenerationDefaults} defaults @param {string} name
   * @param {string | null} unkept @param {import('./adapters.js').Adapters} adapters of the folder
   */
  constructor(decoder, tokenizer, defaults, name, unkept, adapters) {
    this.decoder = decoder;
    this.beside = adapters;
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
   * @param {readonly Prompt[]} prompt @param {ListOptions} [options]
   * @returns {Promise<GenerationResult[]>}
   */
  /**
   * @param {Prompt | readonly Prompt[]} prompt @param {ListOptions} [options]
   * @returns {Promise<GenerationResult | GenerationResult[]>}
   */
  async generate(prompt, options = {}) {
    checkCall(options);
    if (isListOfPrompts(prompt)) return this.generateEach(prompt, options);
    const own = /** @type {CallOptions} */ (options);
    return this.readAll(this.answer(/** @type {Prompt} */ (prompt), own), own);
  }

  /**
   * Like `generate`, but the text comes in pieces while it is made; `result` is there behind the last one.
   * @param {Prompt} prompt
   * @param {CallOptions} [options]
   */
  stream(prompt, options = {}) {
    checkCall(options);
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
    const begin = () => {
      checkCall(options ?? {});
      return this.chatStream(messages, chatTemplate, rest);
    };
    /** @type {any} */
    let answer;
    if (stream) answer = begin();
    else answer = (async () => this.readAll(begin(), rest))();
    return answer;
  }

  /** The names of the adapters that calls may take. */
  get adapters() {
    return [...this.beside.names];
  }

  /**
   * Let calls take the adapter in an .onnx_adapter file of this base, under a name of its own. A page does not keep it.
   * @param {string} name @param {import('./adapter_location.js').AdapterLocation} location
   */
  async addAdapter(name, location) {
    await this.beside.add(name, location);
  }

  /** The model whose calls have an adapter unless they name another; it shares all memory with this one. @param {string} name */
  async withAdapter(name) {
    const decoder = await this.beside.decoder(this.beside.known(name));
    const model = new Model(decoder, this.reader.given, this.defaults, this.name, this.unkept, this.beside);
    model.reader = this.reader;
    return model;
  }

  /**
   * An empty stream; a promise of it where an adapter is named, as its file may have to be read first.
   * @template {string | undefined} [A=undefined]
   * @param {{adapter?: A}} [options]
   * @returns {A extends string ? Promise<State> : State}
   */
  newState(options = {}) {
    checkCall(options);
    const { adapter } = options;
    return this.byAdapter(adapter, (decoder) => decoder.newState());
  }

  /**
   * Feed `prompt` to `state`, or to a new one, without an answer; resolves to that state.
   * @param {Prompt} prompt
   * @param {{state?: State, adapter?: string, signal?: AbortSignal, onPrompt?: (fed: number, of: number) => void}} [options]
   */
  async prefill(prompt, options = {}) {
    checkCall(options);
    const { state, adapter, signal, onPrompt } = options;
    const name = this.adapterOf({ state, adapter });
    const ids = this.reader.nextIds(prompt, state);
    const decoder = await this.decoderOf(name);
    const fed = state ?? decoder.newState();
    await decoder.forward(fed, ids, { signal, onPrompt });
    return fed;
  }

  /**
   * The state that `state.save()` gave, here or in Python, of the adapter that it was made with; a promise as `newState`.
   * @template {string | undefined} [A=undefined]
   * @param {Uint8Array} bytes @param {{adapter?: A}} [options]
   * @returns {A extends string ? Promise<State> : State}
   */
  loadState(bytes, options = {}) {
    checkCall(options);
    const { adapter } = options;
    return this.byAdapter(adapter, (decoder) => decoder.loadState(bytes));
  }

  /**
   * Logits after every token of a sequence from its start.
   * @param {ArrayLike<number>} tokenIds @param {{adapter?: string}} [options]
   */
  async logits(tokenIds, options = {}) {
    checkCall(options);
    const { adapter } = options;
    const decoder = await this.decoderOf(this.adapterOf({ adapter }));
    const state = decoder.newState();
    try {
      const ids = this.reader.checkedIds(tokenIds);
      return await decoder.backend.lifetime.use(async () => {
        const rows = await decoder.forward(state, ids, { count: ids.length });
        return rows.map((row) => row.slice());
      });
    } finally {
      state.dispose();
    }
  }

  /**
   * Number of tokens that `generate` feeds for a text, or `chat` for messages, at the beginning of a stream.
   * @param {Prompt | readonly object[]} prompt @param {{chatTemplate?: string}} [options] for messages
   */
  countTokens(prompt, options = {}) {
    checkCall(options);
    if (!areMessages(prompt)) return this.reader.nextIds(/** @type {Prompt} */ (prompt)).length;
    return this.reader.messageIds(prompt, this.reader.chatPrompt(options.chatTemplate), new Set()).length;
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

  /** @param {readonly Prompt[]} prompts @param {ListOptions} options */
  async generateEach(prompts, { adapter, ...options }) {
    if (options.state != null) {
      throw new OptionError('a list of prompts takes no state; give one prompt, or leave the state out');
    }
    const { seed } = this.options(options);
    const adapters = this.adaptersOf(prompts, adapter);
    prompts.forEach((prompt) => this.reader.nextIds(prompt)); // all are read before the first is answered
    const results = [];
    for (const [i, prompt] of prompts.entries()) {
      const own = seed === null ? options : { ...options, seed: seed + BigInt(i) };
      await this.decoderOf(adapters[i]);
      const ids = this.reader.nextIds(prompt);
      results.push(await this.continue(ids, own, this.defaults.eosTokenIds, {}, adapters[i]).readAll());
    }
    return results;
  }

  /** One for each prompt. @param {readonly Prompt[]} prompts @param {ListOptions['adapter']} given */
  adaptersOf(prompts, given) {
    if (!Array.isArray(given)) return prompts.map(() => this.adapterOf({ adapter: /** @type {string} */ (given) }));
    if (given.length !== prompts.length)
      throw new OptionError(
        `adapter has ${given.length} names; it must have one for each of ${prompts.length} prompts`,
      );
    return given.map((name) => (name === null ? BASE : this.beside.known(name)));
  }

  /**
   * Give the memory of base, adapters and states back, once the step that is running has ended. Nothing can be computed
   * any more; a second call waits for the same. A model of `withAdapter` has no memory of its own.
   */
  async dispose() {
    if (this.decoder !== this.beside.base) return;
    await this.decoder.backend.lifetime.end(async () => {
      await this.beside.dispose();
      await this.decoder.dispose();
    });
  }

  /**
   * The name of the adapter that computes a call: the given one, the state's, or this model's. OptionError for one that
   * there is not, StateError for a state of another, or where the model was disposed of.
   * @param {{state?: State, adapter?: string}} call
   */
  adapterOf({ state, adapter }) {
    this.decoder.backend.lifetime.check();
    const { adapter: own } = this.decoder.description;
    const made = state instanceof State ? state.description.adapter : BASE;
    const name = adapter == null ? made || own : this.beside.known(adapter);
    if (state !== undefined && state !== null) this.decoder.checkState(state, name);
    return name;
  }

  /** @param {string | undefined} adapter @param {(decoder: Decoder) => State} make @returns {any} a state, or a promise of it */
  byAdapter(adapter, make) {
    return adapter == null ? make(this.decoder) : this.withAdapter(adapter).then(({ decoder }) => make(decoder));
  }

  /** @param {string} adapter */
  async decoderOf(adapter) {
    return adapter === this.decoder.description.adapter ? this.decoder : this.beside.decoder(adapter);
  }

  /** The whole of an answer, whose adapter is opened before its time is taken. @param {TextStream} answer @param {CallOptions} options */
  async readAll(answer, options) {
    await this.decoderOf(this.adapterOf(options));
    return answer.readAll();
  }

  /** @param {Prompt} prompt @param {CallOptions} options */
  answer(prompt, options) {
    this.adapterOf(options);
    return this.continue(this.reader.nextIds(prompt, options.state), options, this.defaults.eosTokenIds);
  }

  /** @param {unknown} messages @param {string | undefined} chatTemplate @param {CallOptions} options */
  chatStream(messages, chatTemplate, options) {
    this.adapterOf(options);
    const prompt = this.reader.chatPrompt(chatTemplate);
    const ends = this.endsOf(prompt);
    return this.continue(this.reader.messageIds(messages, prompt, ends, options.state), options, ends);
  }

  /**
   * The folder's default options with the given ones in place; OptionError for one that is not allowed.
   * @param {CallOptions} callOptions
   */
  options({ state: _state, adapter: _adapter, signal: _signal, onPrompt: _onPrompt, ...overrides }) {
    return withOverrides(this.defaults.options, overrides);
  }

  /**
   * Feed exactly these tokens, whatever the unfed token of a state, and stream the answer.
   * @param {readonly number[]} tokenIds @param {CallOptions} callOptions @param {ReadonlySet<number>} ends
   * @param {import('./generation.js').GenerationCalls} [calls] @param {string} [adapter] the name of the one that computes
   */
  continue(tokenIds, callOptions, ends, calls = {}, adapter = this.adapterOf(callOptions)) {
    const { state, signal, onPrompt } = callOptions;
    const options = this.options(callOptions);
    if (options.stop.length) void this.tokenizer;
    const beyond = options.forcedEosTokenId.filter((id) => id >= this.decoder.vocabSize);
    if (beyond.length) {
      throw new OptionError(
        `forcedEosTokenId is ${shown(options.forcedEosTokenId)}; its ids must be from 0 to ${this.decoder.vocabSize - 1}`,
      );
    }
    const guesses = options.promptLookupNumTokens;
    const lookup = guesses ? new PromptLookup(guesses, calls.pastIds) : null;
    const stopIds = this.stopIds(options, ends);
    const tokens = this.computed(adapter, state, (decoder, own) =>
      generateTokens(decoder, own, tokenIds, options, stopIds, { ...calls, lookup, signal, onPrompt }),
    );
    return new TextStream(tokens, this.reader.given, options.stop, tokenIds.length, undefined, lookup);
  }

  /**
   * Tokens by the decoder with an adapter, which is opened with the first one.
   * @param {string} adapter @param {State | undefined} given by default a new one that lives as long as the tokens do
   * @param {(decoder: Decoder, state: State) => AsyncGenerator<GeneratedToken, void, void>} begin
   */
  async *computed(adapter, given, begin) {
    const decoder = await this.decoderOf(adapter);
    const state = given ?? decoder.newState();
    try {
      yield* begin(decoder, state);
    } finally {
      if (!given) state.dispose();
    }
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
