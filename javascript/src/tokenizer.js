/** The tokenizer of an exported folder: `tokenizer.json`, with the names of its special tokens and its chat templates. */

import { Tokenizer as Backend } from '@huggingface/tokenizers';

import { cleanUp } from './clean_up.js';
import { OptionError, PackageError, oneLine, shown } from './errors.js';
import { TEMPLATES, parseJson } from './source.js';

// The names under which transformers hands special tokens to a chat template.
const SPECIAL_TOKEN_NAMES = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
];
const CLEANS_UP = 'clean_up_tokenization_spaces';
const FOR_BPE = '_for_bpe_even_though_it_will_corrupt_output'; // the end of a field that asks for cleaning all the same

/** Text to token ids and back, as Python's `runtime/tokenizer.py` does it with the same files. */
export class Tokenizer {
  /**
   * @param {Record<string, any>} file the content of tokenizer.json
   * @param {Record<string, any>} config that of tokenizer_config.json and special_tokens_map.json
   * @param {ReadonlyMap<string, string>} chatTemplates Jinja sources by name; `default` is the one of `chat`
   */
  constructor(file, config, chatTemplates) {
    // of the config this library would take more than the file says; Python reads the file alone
    this.backend = new Backend(file, {});
    decodeBytesAsPython(this.backend);
    const added = [...this.backend.get_added_tokens_decoder().values()];
    /** @type {Map<string, number>} */
    this.specialIds = new Map(added.filter(({ special }) => special).map(({ content, id }) => [content, id]));
    this.silentIds = new Set(this.specialIds.values());
    const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
    this.byteIds = new Set(bytes.map((text) => this.backend.token_to_id(text)).filter((id) => id !== undefined));
    this.specialTokens = specialTokens(config);
    this.chatTemplates = chatTemplates;
    this.cleanUpTokenizationSpaces = Boolean(
      config[CLEANS_UP] && (file.model?.type !== 'BPE' || config[CLEANS_UP + FOR_BPE]),
    );
    const vocab = this.backend.get_vocab();
    this.vocabSize = vocab.size;
    this.largestId = [...vocab.values()].reduce((a, b) => Math.max(a, b), -1);
  }

  /** The tokenizer of a folder; null where there is no tokenizer.json. @param {import('./source.js').Source} source */
  static async fromSource(source) {
    const text = await source.text('tokenizer.json');
    if (text === null) return null;
    /** @type {Record<string, any>} */
    const config = {};
    for (const name of ['special_tokens_map.json', 'tokenizer_config.json']) {
      const entries = await source.text(name);
      if (entries !== null) Object.assign(config, parseJson(entries, name));
    }
    const file = parseJson(text, 'tokenizer.json');
    const templates = await chatTemplates(source, config);
    try {
      return new Tokenizer(file, config, templates);
    } catch (error) {
      throw new PackageError(`tokenizer.json is not a tokenizer (${oneLine(error)}); export the model again`);
    }
  }

  /**
   * Token ids of a text; addSpecialTokens puts those around it that the file asks for.
   * @param {string} text
   * @param {{addSpecialTokens?: boolean}} [options]
   */
  encode(text, { addSpecialTokens = true } = {}) {
    return this.known(this.backend.encode(checkedText(text), { add_special_tokens: addSpecialTokens }).ids);
  }

  /** Token ids of a text read as plain text, none of it as a special or added token. @param {string} text */
  encodeAsText(text) {
    /** @type {any} */
    const { normalizer, pre_tokenizer: preTokenizer, model } = this.backend;
    const normal = normalizer === null ? text : normalizer(text);
    const words = preTokenizer === null ? [normal] : preTokenizer(normal);
    return this.known(
      model(words).map((/** @type {string} */ token) => model.tokens_to_ids.get(token) ?? model.unk_token_id),
    );
  }

  /**
   * The text of tokens; an incomplete character becomes U+FFFD.
   * @param {readonly number[]} tokenIds
   * @param {{skipSpecialTokens?: boolean, cleanUp?: boolean}} [options]
   */
  decode(tokenIds, { skipSpecialTokens = true, cleanUp: cleans = this.cleanUpTokenizationSpaces } = {}) {
    const shows = (/** @type {number} */ id) =>
      skipSpecialTokens ? !this.isSilent(id) : this.backend.id_to_token(id) !== undefined;
    const ids = tokenIds.filter(shows);
    if (!ids.length) return '';
    const text = this.backend.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
    return cleans ? cleanUp(text) : text;
  }

  /** The special tokens as they are written. */
  get specialTexts() {
    return [...this.specialIds.keys()];
  }

  /** The id of the special token written so. @param {string} text */
  specialId(text) {
    return this.specialIds.get(text) ?? null;
  }

  /** Whether the token never shows in the text: a special one, or one unknown. @param {number} tokenId */
  isSilent(tokenId) {
    return this.silentIds.has(tokenId) || this.backend.id_to_token(tokenId) === undefined;
  }

  /**
   * Whether the token is a single byte, such as `<0x0A>`, that is decoded together with its neighbours.
   * @param {number} tokenId
   */
  isByte(tokenId) {
    return this.byteIds.has(tokenId);
  }

  /** @param {readonly (number | undefined)[]} ids undefined for text that the vocabulary does not have */
  known(ids) {
    return ids.filter((id) => id !== undefined && id !== null).map(Number);
  }
}

/**
 * A run of byte tokens is UTF-8 as a whole, or each of them becomes U+FFFD: the rule of Python's library. This one
 * would read the parts of a run that are UTF-8, and drop a U+FEFF at its start.
 * @param {any} backend
 */
function decodeBytesAsPython({ decoder }) {
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const read = (/** @type {string[]} */ run) => {
    try {
      return utf8.decode(Uint8Array.from(run, (token) => parseInt(token.slice(3, 5), 16)));
    } catch {
      return '\ufffd'.repeat(run.length);
    }
  };
  for (const each of decoder?.decoders ?? [decoder]) {
    if (each?.config?.type !== 'ByteFallback') continue;
    each.decode_chain = (/** @type {string[]} */ tokens) => {
      /** @type {string[]} */
      const out = [];
      /** @type {string[]} */
      let run = [];
      for (const token of [...tokens, null]) {
        if (token !== null && /^<0x[0-9A-Fa-f]{2}>$/.test(token)) run.push(token);
        else {
          if (run.length) out.push(read(run));
          run = [];
          if (token !== null) out.push(token);
        }
      }
      return out;
    };
  }
}

/** The text; OptionError when it is none, or holds half a character. @param {unknown} text @returns {string} */
export function checkedText(text) {
  if (typeof text !== 'string') throw new OptionError(`the text is ${shown(text)}; it must be a string`);
  const lone = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.exec(text);
  if (lone) throw new OptionError(`the text holds ${JSON.stringify(lone[0])}, half a character; give valid Unicode`);
  return text;
}

/** @param {Record<string, any>} config @returns {Record<string, string>} */
function specialTokens(config) {
  const named = SPECIAL_TOKEN_NAMES.map((name) => [name, config[name]?.content ?? config[name]]);
  return Object.fromEntries(named.filter(([, content]) => typeof content === 'string'));
}

/**
 * Templates by name; as in transformers, files come before the entry of the configuration.
 * @param {import('./source.js').Source} source @param {Record<string, any>} config
 */
async function chatTemplates(source, config) {
  /** @type {Map<string, string>} */
  const templates = new Map();
  for (const file of await source.list(TEMPLATES, '.jinja')) {
    templates.set(file.slice(0, -'.jinja'.length), (await source.text(`${TEMPLATES}/${file}`)) ?? '');
  }
  const own = await source.text('chat_template.jinja');
  if (own !== null) templates.set('default', own);
  const entry = config.chat_template;
  if (templates.size || entry == null) return templates;
  if (typeof entry === 'string') return templates.set('default', entry);
  const isList =
    Array.isArray(entry) && entry.every((each) => typeof each?.name === 'string' && typeof each?.template === 'string');
  if (!isList) {
    throw new PackageError(
      'tokenizer_config.json: chat_template must be a string, or a list of objects with a name and a template; export the model again',
    );
  }
  for (const { name, template } of entry) templates.set(name, template);
  return templates;
}

/**
 * Refuse a tokenizer with more tokens than the model has.
 * @param {Tokenizer | null} tokenizer
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
