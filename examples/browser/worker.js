/**
 * One model, beside the page's own thread: it takes one message after the other, and `stop` at any time. It is loaded
 * once; another one gets another worker.
 */

import { Conversation, DogeError, load } from "./doge-export/index.js";

// those of doge-chat, where the folder states none of its own
const SAMPLING = {
  temperature: 0.8,
  topK: 40,
  topP: 0.95,
  minP: 0.05,
  repetitionPenalty: 1.05,
};
const STATED = [
  "do_sample",
  "temperature",
  "top_k",
  "top_p",
  "min_p",
  "repetition_penalty",
];
const LONGEST = 512;
const PROGRESS_MS = 100; // between two messages

let model = null;
let conversation = null;
let answer = null; // the AbortController of the one that is being given

const received = {
  async load({ url, threads, provider, bytes }) {
    let last = 0;
    const onProgress = ({ file, loaded, total }) => {
      if (loaded < total && performance.now() - last < PROGRESS_MS) return;
      last = performance.now();
      postMessage({ type: "progress", file, loaded, total });
    };
    model = await load(url, {
      onProgress,
      executionProviders: [provider],
      ...(threads === null ? {} : { threads }),
    });
    const begun = bytes
      ? Conversation.resume(model, bytes)
      : new Conversation(model);
    postMessage({
      type: "ready",
      name: model.name,
      provider,
      kernels: model.decoder.backend.kernels,
      threads: model.decoder.backend.threads,
      context: model.contextSize,
      isolated: crossOriginIsolated,
      unkept: model.unkept,
    });
    replaceConversation(begun);
  },

  /** The conversation, for the worker of another model; null before its first question. */
  async leave({ provider }) {
    const bytes = conversation.messages.length ? conversation.save() : null;
    postMessage({ type: "left", provider, bytes }, bytes ? [bytes.buffer] : []);
  },

  async ask({ text, sampling }) {
    answer = new AbortController();
    const states = model.defaults.stated.some((name) => STATED.includes(name));
    const own = sampling ? (states ? {} : SAMPLING) : { temperature: 0 };
    const stream = conversation.ask(text, {
      maxNewTokens: LONGEST,
      ...own,
      signal: answer.signal,
    });
    const numbers = () => ({
      speed: stream.decodeTokensPerS,
      position: conversation.state.position,
    });
    // an answer without a token is none: the conversation has forgotten its question, and goes back with the next one
    const ended = () => {
      const answered = stream.tokenIds.length > 0;
      const { speed, position } = numbers();
      const { length } = conversation.tokens;
      return {
        answered,
        speed,
        position: answered ? position : Math.min(position, length),
      };
    };
    try {
      for await (const piece of stream)
        postMessage({ type: "piece", text: piece, ...numbers() });
      postMessage({ type: "done", ...ended() });
    } catch (error) {
      if (error.name === "AbortError")
        postMessage({ type: "done", ...ended() });
      else postMessage({ type: "failed", ...fault(error), ...ended() });
    } finally {
      answer = null;
    }
  },

  async save() {
    const bytes = conversation.save();
    postMessage({ type: "saved", bytes }, [bytes.buffer]);
  },

  async open({ bytes }) {
    replaceConversation(Conversation.resume(model, bytes));
  },

  async reset() {
    replaceConversation(new Conversation(model));
  },
};

function replaceConversation(next) {
  conversation?.dispose();
  conversation = next;
  postMessage({
    type: "conversation",
    transcript: conversation.messages,
    position: conversation.state.position,
  });
}

onmessage = async ({ data }) => {
  if (data.type === "stop") {
    answer?.abort();
    return;
  }
  try {
    await received[data.type](data);
  } catch (error) {
    postMessage({ type: "failed", ...fault(error) });
  }
};

function fault(error) {
  if (error instanceof DogeError) return { message: error.message };
  return {
    message: `something is wrong in this page: ${error?.message ?? error}`,
  };
}
