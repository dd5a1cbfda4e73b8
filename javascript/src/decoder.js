/** An exported decoder: feed tokens, get logits, keep the state. It can be shared; a `State` is one stream of tokens. */

import { DECODER_FILE, DRAFT_FILE, DRAFT_TOKENS, RECURRENT_FILE } from './description.js';
import { OptionError, StateError, shown } from './errors.js';
import { State } from './state.js';
import { POSITION_LIMIT } from './state_file.js';
import { breathe } from './turns.js';

/** @typedef {import('./description.js').DecoderDescription} DecoderDescription */
/** @typedef {import('./sessions.js').Binding} Binding */
/** @typedef {import('./sessions.js').Sessions} Sessions */

/**
 * count: rows of logits, of the last tokens. onPrompt is told of progress between chunks.
 * @typedef {{count?: number, signal?: AbortSignal, onPrompt?: (fed: number, of: number) => void}} Feeding
 */

const PLAIN = 'plain';
const RECURRENT = 'recurrent';
const DRAFT = 'draft';

export class Decoder {
  /**
   * @param {import('./sessions.js').Backend} backend @param {DecoderDescription} description
   * @param {Sessions} sessions @param {import('./sessions.js').Constants | null} [constants] of an adapter
   */
  constructor(backend, description, sessions, constants = null) {
    this.backend = backend;
    this.description = description;
    this.sessions = sessions;
    this.constants = constants;
    /** @type {boolean | null} */
    this.draftsAreExact = null; // whether they equal single steps to the last bit; null before it was tried
  }

  /**
   * The first graph is opened here, and the others when the first stream needs them.
   * @param {import('./sessions.js').Backend} backend @param {DecoderDescription} description
   * @param {Sessions} sessions of the checked graphs
   */
  static async open(backend, description, sessions) {
    await sessions.get(DECODER_FILE);
    return new Decoder(backend, description, sessions);
  }

  get vocabSize() {
    return this.description.vocabSize;
  }

  /** An empty stream. */
  newState() {
    this.backend.lifetime.check();
    return new State(this.backend, this.description);
  }

  /** @param {Uint8Array} bytes of a state file */
  loadState(bytes) {
    this.backend.lifetime.check();
    return State.load(bytes, this.backend, this.description);
  }

  /** Refuse all but states of this model and adapter. @param {unknown} state @param {string} [adapter] another's */
  checkState(state, adapter = this.description.adapter) {
    if (!(state instanceof State)) {
      throw new OptionError(`state is ${shown(state)}; it must be one that prefill, copy() or loadState returned`);
    }
    if (state.backend !== this.backend) {
      throw new StateError(
        'the state belongs to another model; use it with the model that it was made with, or save it and load that here',
      );
    }
    const { adapter: own } = state.description;
    if (own !== adapter) {
      const made = own ? `with the adapter ${shown(own)}` : 'without an adapter';
      throw new StateError(`the state was made ${made}, and goes on in no other way; give it to its own`);
    }
    state.checkFree();
  }

  /**
   * Feed tokens, in chunks where there are many, and advance the state.
   * @param {State} state @param {ArrayLike<number>} tokenIds at least one, each below vocabSize
   * @param {Feeding} [calls]
   * @returns {Promise<Float32Array[]>} the next call may overwrite a single one, and so may `dispose` outside of
   * `Lifetime.use`
   */
  async forward(state, tokenIds, calls) {
    return this.backend.lifetime.use(() => this.fed(state, tokenIds, calls));
  }

  /** @param {State} state @param {ArrayLike<number>} tokenIds @param {Feeding} [calls] */
  async fed(state, tokenIds, { count = 1, signal, onPrompt } = {}) {
    this.checkState(state);
    if (state.position + tokenIds.length > POSITION_LIMIT)
      throw new StateError(`a stream has ${POSITION_LIMIT.toLocaleString('en')} tokens at most; begin a new one`);
    state.inUse = true;
    try {
      if (tokenIds.length === 1) return [await this.step(state, tokenIds[0])];
      const rows = [];
      for (let start = 0; start < tokenIds.length;) {
        signal?.throwIfAborted();
        this.backend.lifetime.check();
        const chunk = Array.prototype.slice.call(tokenIds, start, start + state.roomForChunk());
        start += chunk.length;
        const wanted = Math.min(chunk.length, start - (tokenIds.length - count));
        const logits = await this.chunk(state, chunk, Math.max(wanted, 1));
        if (wanted > 0) rows.push(...logits);
        if (start < tokenIds.length) {
          onPrompt?.(start, tokenIds.length);
          await breathe();
        }
      }
      return rows;
    } finally {
      state.inUse = false;
    }
  }

  /** Feed one token. @param {State} state @param {number} tokenId */
  async step(state, tokenId) {
    const candidates = this.candidates(state, 1);
    const kind = candidates ? RECURRENT : PLAIN;
    let binding = state.bindings.get(kind);
    if (!binding) {
      binding = await this.bind(state, 1, 1, candidates);
      state.bindings.set(kind, binding);
    }
    await this.run(binding, state, [tokenId], 1, candidates);
    return binding.read('logits');
  }

  /**
   * Feed tokens in one piece: logits of the last `count`.
   * @param {State} state
   * @param {readonly number[]} tokenIds
   * @param {number} count
   */
  async chunk(state, tokenIds, count) {
    const candidates = this.candidates(state, tokenIds.length);
    const binding = await this.bind(state, tokenIds.length, count, candidates);
    try {
      await this.run(binding, state, tokenIds, count, candidates);
      const logits = binding.read('logits').slice();
      return Array.from({ length: count }, (_, i) => logits.subarray(i * this.vocabSize, (i + 1) * this.vocabSize));
    } finally {
      binding.dispose();
    }
  }

  /**
   * Room for so many tokens, and the keys that they may evict; null while the window is not full.
   * @param {State} state
   * @param {number} tokens
   */
  candidates(state, tokens) {
    const window = state.position >= this.description.keepWindowSize ? state.fullWindow() : null;
    state.reserve(tokens); // behind fullWindow, which may change the cache
    return window && window.candidates(tokens, state.position);
  }

  /**
   * @param {Binding} binding @param {State} state @param {readonly number[]} tokenIds @param {number} count
   * @param {import('./eviction.js').Candidates | null} candidates
   */
  async run(binding, state, tokenIds, count, candidates) {
    const tokens = tokenIds.length;
    const cached = candidates ? this.description.keepWindowSize : state.position;
    binding.write('input_ids', tokenIds);
    binding.write(
      'position_ids',
      tokenIds.map((_, i) => state.position + i),
    );
    binding.write('seqlens_k', [cached + tokens - 1]);
    binding.write('total_sequence_length', [cached + tokens]);
    binding.write(
      'logits_to_keep',
      Array.from({ length: count }, (_, i) => tokens - count + i),
    );
    if (candidates) {
      binding.write('eviction_slots', candidates.slots);
      binding.write('eviction_precedence', candidates.precedence);
    }
    await binding.run();
    state.takePrecedence((layer) => binding.read(`new_precedence.${layer}`));
    state.takeIn(tokenIds, candidates);
  }

  /**
   * @param {State} state @param {number} tokens @param {number} count
   * @param {import('./eviction.js').Candidates | null} candidates @param {string} [file]
   */
  async bind(state, tokens, count, candidates, file = candidates ? RECURRENT_FILE : DECODER_FILE) {
    const d = this.description;
    const isDraft = file === DRAFT_FILE; // which takes each token as a step of its own
    /** @type {import('./sessions.js').Slot[]} */
    const inputs = [
      { name: 'input_ids', type: 'int64', dims: [1, tokens] },
      { name: 'position_ids', type: 'int64', dims: [1, tokens] },
      { name: 'seqlens_k', type: 'int32', dims: [isDraft ? tokens : 1] },
      { name: 'total_sequence_length', type: 'int32', dims: isDraft ? [tokens] : [] },
      { name: 'logits_to_keep', type: 'int64', dims: [count] },
    ];
    if (candidates) {
      const dims = [d.numLayers, d.numRecurrentHeads, candidates.count];
      inputs.push(
        { name: 'eviction_slots', type: 'int64', dims },
        { name: 'eviction_precedence', type: 'float32', dims },
      );
    }
    /** @type {import('./sessions.js').Slot[]} */
    const outputs = [{ name: 'logits', type: 'float32', dims: [1, count, d.vocabSize] }];
    for (let layer = 0; d.separatePrecedence && layer < d.numLayers; layer++) {
      outputs.push({ name: `new_precedence.${layer}`, type: 'float32', dims: [1, tokens, d.numRecurrentHeads] });
    }
    const session = await this.sessions.get(file);
    const shared = state.cache.shared(isDraft ? tokens - 1 : 0);
    return session.bind(inputs, outputs, shared, state.cache.memory, this.constants);
  }

  /** Guesses that `checkDraft` can take behind the next token. @param {State} state */
  roomForDraft(state) {
    const fits = state.position + DRAFT_TOKENS <= this.description.keepWindowSize;
    return fits && this.backend.drafts && this.draftsAreExact !== false ? DRAFT_TOKENS - 1 : 0;
  }

  /**
   * Logits after every one of some tokens, bit by bit those of feeding one after the other. The state stays where it is:
   * `State.takeIn` moves it on over as many of the tokens as were right.
   * @param {State} state with room for the draft
   * @param {readonly number[]} tokenIds the next token and at most `roomForDraft` guesses
   */
  async checkDraft(state, tokenIds) {
    return this.backend.lifetime.use(() => this.checkedDraft(state, tokenIds));
  }

  /** @param {State} state @param {readonly number[]} tokenIds */
  async checkedDraft(state, tokenIds) {
    this.checkState(state);
    const { position } = state;
    state.inUse = true;
    try {
      const rows = await this.draft(state, tokenIds);
      if (this.draftsAreExact) return rows;
      const single = [];
      for (const tokenId of tokenIds) single.push((await this.step(state, tokenId)).slice());
      this.settleDrafts(rows, single);
      return single;
    } finally {
      state.inUse = false;
      if (state.position !== position) state.truncate(position);
    }
  }

  /** Write the rows of tokens; the state stays put. @param {State} state @param {readonly number[]} tokenIds */
  async draft(state, tokenIds) {
    const { vocabSize } = this;
    state.reserve(DRAFT_TOKENS);
    let binding = state.bindings.get(DRAFT);
    if (!binding) {
      binding = await this.bind(state, DRAFT_TOKENS, DRAFT_TOKENS, null, DRAFT_FILE);
      state.bindings.set(DRAFT, binding);
    }
    const places = Array.from({ length: DRAFT_TOKENS }, (_, i) => i);
    const positions = places.map((i) => state.position + i);
    // those behind the guesses are computed for nothing, and never looked at
    const ids = places.map((i) => tokenIds[i] ?? 0);
    binding.write('input_ids', ids);
    binding.write('position_ids', positions);
    binding.write('seqlens_k', positions);
    binding.write(
      'total_sequence_length',
      positions.map((position) => position + 1),
    );
    binding.write('logits_to_keep', places);
    await binding.run();
    const taken = binding;
    state.takePrecedence((layer) => taken.read(`new_precedence.${layer}`));
    const logits = binding.read('logits').slice();
    return tokenIds.map((_, i) => logits.subarray(i * vocabSize, (i + 1) * vocabSize));
  }

  /** @param {Float32Array[]} together @param {Float32Array[]} apart of the same tokens */
  settleDrafts(together, apart) {
    this.draftsAreExact = together.every((row, i) => row.every((logit, id) => logit === apart[i][id]));
    if (this.draftsAreExact) return;
    console.warn(
      'prompt lookup is off: this processor computes several tokens at once otherwise than one by one, and answers could ' +
        'change',
    );
  }

  /** Give the memory of the graphs back, within `Lifetime.end`. */
  async dispose() {
    await this.sessions.dispose();
    await this.backend.dispose();
  }
}
