/** Chat templates: messages to the text a model was tuned on, in the Jinja dialect of transformers. */

import { Template } from '@huggingface/jinja';

import { OptionError, PackageError, oneLine, shown } from './errors.js';

/**
 * @typedef {{role: string, content: unknown, [name: string]: unknown}} Message content: text, or a list of text parts
 */

const BETWEEN_PARTS = '\n'; // as llama.cpp and vLLM join the text parts of a message

/** One compiled template together with the special tokens it may name. */
export class ChatTemplate {
  /** @param {string} source Jinja @param {Record<string, string>} [specialTokens] such as {bos_token: "<s>"} */
  constructor(source, specialTokens = {}) {
    this.specialTokens = specialTokens;
    try {
      this.template = new Template(source);
    } catch (error) {
      throw new PackageError(
        `the chat template is not valid Jinja (${oneLine(error)}); write another into the folder as chat_template.jinja`,
      );
    }
  }

  /**
   * The text of a conversation; with addGenerationPrompt it ends where the assistant's answer begins.
   * @param {unknown} messages @param {{addGenerationPrompt?: boolean}} [options]
   */
  render(messages, { addGenerationPrompt = true } = {}) {
    const plain = checkMessages(messages);
    let text;
    try {
      text = this.template.render({
        ...this.specialTokens,
        tools: null,
        documents: null,
        messages: plain,
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (error) {
      throw new OptionError(`the chat template does not accept these messages: ${oneLine(error)}`);
    }
    if (!text) throw new OptionError('the chat template writes nothing for these messages; give other messages');
    return text;
  }
}

/**
 * The messages as a template takes them: plain data without empty entries, the content of each one text.
 * @param {unknown} messages @returns {Message[]}
 */
export function checkMessages(messages) {
  if (!Array.isArray(messages) || !messages.length) {
    throw new OptionError(
      `messages is ${shown(messages)}; it must be a non-empty list such as [{role: "user", content: "Hello"}]`,
    );
  }
  return messages.map((message, index) => checkedMessage(message, `messages[${index}]`));
}

/** @param {any} message @param {string} where @returns {Message} */
function checkedMessage(message, where) {
  if (message === null || typeof message !== 'object' || Array.isArray(message)) {
    throw new OptionError(`${where} is ${shown(message)}; it must be an object with role and content`);
  }
  for (const name of ['role', 'content']) {
    if (message[name] == null) throw new OptionError(`${where}.${name} is missing; give it as text`);
  }
  if (typeof message.role !== 'string')
    throw new OptionError(`${where}.role is ${shown(message.role)}; it must be a string`);
  let plain;
  try {
    plain = JSON.parse(JSON.stringify(message, (_, value) => value ?? undefined));
  } catch (error) {
    throw new OptionError(`${where} must be made of strings, numbers, lists and objects (${oneLine(error)})`);
  }
  return { ...plain, content: content(message.content, `${where}.content`) };
}

/** @param {unknown} given @param {string} where */
function content(given, where) {
  if (typeof given === 'string') return given;
  if (!Array.isArray(given))
    throw new OptionError(`${where} is ${shown(given)}; it must be a string, or a list of text parts`);
  return given.map((part, index) => textOf(part, `${where}[${index}]`)).join(BETWEEN_PARTS);
}

/** @param {any} part @param {string} where */
function textOf(part, where) {
  if (typeof part?.type !== 'string') {
    throw new OptionError(`${where} is ${shown(part)}; it must be a part such as {type: "text", text: "Hello"}`);
  }
  if (part.type !== 'text')
    throw new OptionError(`${where} is a part of the type ${shown(part.type)}; the model reads only text`);
  if (typeof part.text !== 'string') throw new OptionError(`${where}.text is ${shown(part.text)}; it must be a string`);
  return part.text;
}
