/** Prompts of every form, read into the token ids that a stream is fed: texts, token ids, and messages. */

import { ChatPrompt } from './chat_prompt.js';
import { ChatTemplate } from './chat_template.js';
import { OptionError, PackageError, shown } from './errors.js';

/** @typedef {import('./state.js').State} State */
/** @typedef {string | ArrayLike<number>} Prompt */

/** @param {unknown} prompt @returns {prompt is readonly Prompt[]} */
export function isListOfPrompts(prompt) {
  const [first] = Array.isArray(prompt) ? prompt : [];
  return typeof first === 'string' || Array.isArray(first) || ArrayBuffer.isView(first);
}

/** Whether it is a list of objects, which `chat` reads. @param {unknown} prompt */
export function areMessages(prompt) {
  const [first] = Array.isArray(prompt) ? prompt : [];
  return typeof first === 'object' && first !== null && !Array.isArray(first) && !ArrayBuffer.isView(first);
}

export class PromptReader {
  /**
   * @param {import('./tokenizer.js').Tokenizer | null} tokenizer
   * @param {number} vocabSize
   * @param {string} modelName
   */
  constructor(tokenizer, vocabSize, modelName) {
    this.given = tokenizer;
    this.vocabSize = vocabSize;
    this.modelName = modelName;
    /** @type {Map<string, ChatPrompt>} */
    this.chatPrompts = new Map(); // by the source of their template
  }

  /** The model's tokenizer; PackageError when it has none. */
  get tokenizer() {
    if (this.given === null) {
      throw new PackageError(
        `the model ${shown(this.modelName)} has no tokenizer.json; give token ids and read tokenIds`,
      );
    }
    return this.given;
  }

  /**
   * A template with the tokenizer: the folder's default, one of its names, or the text of a template.
   * @param {string} [chatTemplate]
   */
  chatPrompt(chatTemplate) {
    const source = this.templateSource(chatTemplate);
    let prompt = this.chatPrompts.get(source);
    if (!prompt) {
      prompt = new ChatPrompt(new ChatTemplate(source, this.tokenizer.specialTokens), this.tokenizer);
      this.chatPrompts.set(source, prompt);
    }
    return prompt;
  }

  /**
   * The token that `state` has not been fed of its stream, then the prompt.
   * @param {Prompt} prompt
   * @param {State} [state]
   */
  nextIds(prompt, state) {
    const unfed = state?.unfedToken == null ? [] : [state.unfedToken];
    const position = state?.position ?? 0;
    const isEmpty = prompt != null && prompt.length === 0;
    if (isEmpty && unfed.length) return unfed;
    if (isEmpty && position) {
      throw new OptionError(
        `the prompt is empty, and all ${position} tokens of the state are fed; give the token after them, or prefill all ` +
          'tokens but the last',
      );
    }
    if (typeof prompt !== 'string') return [...unfed, ...this.checkedIds(prompt)];
    if (!prompt) throw new OptionError('the prompt is empty; give at least one character');
    const addSpecialTokens = position === 0 && !unfed.length;
    return this.checkedTokens([...unfed, ...this.tokenizer.encode(prompt, { addSpecialTokens })]);
  }

  /**
   * Token ids of messages, and of all that must stand between them and the tokens of `state`.
   * @param {unknown} messages @param {ChatPrompt} prompt @param {ReadonlySet<number>} ends tokens that end an answer
   * @param {State} [state]
   */
  messageIds(messages, prompt, ends, state) {
    return this.checkedTokens(this.idsOfMessages(messages, prompt, ends, state));
  }

  /** @param {unknown} messages @param {ChatPrompt} prompt @param {ReadonlySet<number>} ends @param {State} [state] */
  idsOfMessages(messages, prompt, ends, state) {
    const unfed = state?.unfedToken ?? null;
    if (!state || (state.position === 0 && unfed === null)) return prompt.encode(prompt.render(messages));
    const text = prompt.renderAfter(messages, unfed !== null);
    if (unfed === null) return prompt.encode(text);
    if (!ends.has(unfed)) return [unfed, ...prompt.encode(text)];
    const end = this.tokenizer.decode([unfed], { skipSpecialTokens: false });
    // The template writes the answer's own end there, or another, which takes its place.
    const isOwn = text.startsWith(end);
    return [...(isOwn ? [unfed] : []), ...prompt.encode(isOwn ? text.slice(end.length) : text)];
  }

  /** @param {ArrayLike<number>} tokenIds */
  checkedIds(tokenIds) {
    if (!Array.isArray(tokenIds) && !ArrayBuffer.isView(tokenIds)) {
      throw new OptionError(`the prompt is ${shown(tokenIds)}; it must be text or a list of token ids`);
    }
    const ids = Array.from(/** @type {ArrayLike<unknown>} */ (tokenIds), (id) =>
      typeof id === 'bigint' ? Number(id) : id,
    );
    if (!ids.length) throw new OptionError('the prompt is empty; give at least one token id');
    ids.forEach((id, index) => {
      if (id !== null && typeof id === 'object') {
        throw new OptionError(
          'the prompt is a list of objects or lists; give messages to chat, and several prompts to generate, or one after the other',
        );
      }
      if (!Number.isInteger(id))
        throw new OptionError(`token ${index} of the prompt is ${shown(id)}; it must be a whole number`);
      if (Number(id) < 0 || Number(id) >= this.vocabSize) {
        throw new OptionError(`token ${index} of the prompt is ${id}; it must be from 0 to ${this.vocabSize - 1}`);
      }
    });
    return /** @type {number[]} */ (ids);
  }

  /**
   * Tokens as the tokenizer cuts a text; PackageError for one that the model does not have.
   * @param {number[]} tokenIds
   */
  checkedTokens(tokenIds) {
    if (!tokenIds.length) throw new OptionError('the prompt makes no token; give other text');
    const unknown = tokenIds.find((id) => id >= this.vocabSize);
    if (unknown === undefined) return tokenIds;
    throw new PackageError(
      `the tokenizer of ${shown(this.modelName)} gives token ${unknown}, but the model has ${this.vocabSize} tokens; export ` +
        'the model again with its own tokenizer',
    );
  }

  /** @param {string} [chatTemplate] */
  templateSource(chatTemplate) {
    const templates = this.tokenizer.chatTemplates;
    const names = [...templates.keys()].sort();
    if (chatTemplate !== undefined && chatTemplate !== null) {
      const source =
        templates.get(chatTemplate) ??
        (typeof chatTemplate === 'string' && chatTemplate.includes('{') ? chatTemplate : null);
      if (source !== null) return source;
      throw new OptionError(
        `chatTemplate is ${shown(chatTemplate)}; it must be the text of a Jinja template, or one of the names ${shown(names)}`,
      );
    }
    const source = templates.get('default');
    if (source !== undefined) return source;
    throw new PackageError(
      names.length
        ? `the model ${shown(this.modelName)} has the chat templates ${names.join(' and ')}, but no default; write the one to use into the folder as chat_template.jinja`
        : `the model ${shown(this.modelName)} has no chat template; use generate or stream with plain text`,
    );
  }
}
