"""An exported folder as a language model: text or token ids in, text out.

    model = doge_export.load("folder")
    print(model.generate("The capital of France is").text)
    for piece in model.chat([{"role": "user", "content": "Hello"}], stream=True):
        print(piece, end="", flush=True)

    state = model.prefill("A long text that many questions are about.")
    answers = [model.generate(question, state=state.copy()).text for question in questions]

Nothing here needs torch or transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .adapters import Adapters
from .answers import Answers, Asked, Ends, begin_by_each
from .assistant import Assistant
from .batch_options import check_taken_together, options_of_prompts
from .batch_stream import BatchStream
from .call_keywords import OneConversation, OnePrompt, OptionsPerPrompt, SeveralConversations, SeveralPrompts
from .classifier import Classification, Classifier, fitting_rows
from .generation import OnPrompt, TokenDecoder
from .generation_options import GenerationDefaults, GenerationOptions, GenerationOverrides
from .prompts import Prompt, PromptReader, Prompts, are_messages, is_list_of_conversations, is_list_of_prompts
from .reasoning import LONGEST_TAG, TAGS, Reasoning, ReasoningMode, begun_by, check_mode
from .scoring import Score, score
from .state import State
from .streaming import GenerationResult, TextStream
from .token_history import TokenHistory
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .chat_prompt import ChatPrompt
    from .chat_template import ChatTemplate, Message

Messages = Sequence["Message"]
AdapterOfPrompts = str | Sequence[str | None] | None


class Model:
    """A decoder with its tokenizer, chat template and generation settings.

    The keywords of `generate`, `stream` and `chat` are the fields of `GenerationOptions`: max_new_tokens, temperature
    (0 is greedy), top_p, stop, seed and more. One left out takes the folder's default.

    All three take a list of prompts, or of conversations, too. These are answered together, several times faster than
    one after the other, and each as if alone. `options_per_prompt` has the options of each where they differ, as a list
    of dictionaries. One `seed` gives prompt i the seed + i. A list takes neither state nor prompt lookup.

    All three take an `adapter` by its name, one of the folder's or of `add_adapter`. A list of prompts takes a list of
    names too, None for the base. A state that an adapter has made goes on with it, and with no other.

    All three, and `prefill`, continue a `state` when one is given, else a new one. A state is one stream of tokens, and
    the call advances it in place, so a prompt holds only new text. The last token of an answer is fed with the next
    prompt; until then it is the state's `unfed_token`. A state is never too long, and the repetition penalty knows all
    of it. `state.copy()` branches, `state.save(path)` and `load_state` keep it on disk.

    Calls from several threads do not disturb each other, each having a state of its own. With `max_streams` those
    without a given state or prompt lookup are merged: they take their steps together, and answer as alone. Such an
    answer is made whether or not its pieces are read, until it ends or is closed.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        tokenizer: Tokenizer | None = None,
        defaults: GenerationDefaults | None = None,
        name: str = "model",
        max_streams: int | None = None,
        cache_mb: float = 0,
        assistant: Assistant | None = None,
        adapters: Adapters | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        self.decoder = decoder
        self.assistant = assistant
        self._adapters, self._adapted = adapters, dict[str, Model]()
        self._base: Model | None = None  # of a model with an adapter
        self._merging = (max_streams, cache_mb)
        self._classifier = classifier
        self.defaults = defaults or GenerationDefaults()
        self.name = name
        self._tokenizer = tokenizer
        self._reader = PromptReader(tokenizer, decoder.vocab_size, name)
        self.answers = Answers(decoder, tokenizer, self._reader, max_streams, cache_mb, assistant)

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, vocab_size={self.decoder.vocab_size}, context_size={self.context_size}, "
            f"tokenizer={self._tokenizer is not None}, chat_template={self.has_chat_template})"
        )

    @overload
    def generate(self, prompt: Prompt, **keywords: Unpack[OnePrompt]) -> GenerationResult: ...

    @overload
    def generate(self, prompt: Prompts, **keywords: Unpack[SeveralPrompts]) -> list[GenerationResult]: ...

    def generate(
        self,
        prompt: Prompt | Prompts,
        *,
        state: State | None = None,
        adapter: AdapterOfPrompts = None,
        options_per_prompt: OptionsPerPrompt | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationResult | list[GenerationResult]:
        """Continue `prompt`, a string or token ids, or with `state` that stream and `prompt` after it.

        A list of strings, or of lists of token ids, gives a list of results. The prompt may be empty when the state
        ends in an answer: then that goes on. Special tokens are put around a text only where a stream begins.

        Raises:
            OptionError: a prompt or an option is not allowed.
            StateError: the state is another model's.
            PackageError: text is asked of a folder without tokenizer.
        """
        options = self.options(**overrides)
        with self._claim(state, adapter):
            return self._stream(prompt, options, state, options_per_prompt, adapter).read_all()

    @overload
    def stream(self, prompt: Prompt, **keywords: Unpack[OnePrompt]) -> TextStream: ...

    @overload
    def stream(self, prompt: Prompts, **keywords: Unpack[SeveralPrompts]) -> BatchStream: ...

    def stream(
        self,
        prompt: Prompt | Prompts,
        *,
        state: State | None = None,
        adapter: AdapterOfPrompts = None,
        options_per_prompt: OptionsPerPrompt | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> TextStream | BatchStream:
        """Like `generate`, but the text comes in pieces while it is made; no piece splits a character.

        The pieces add up to the text of `generate`; after the last one, `result` of the stream has the other numbers.
        A list of prompts gives pairs of a prompt's index and a piece, and `results`.
        """
        options = self.options(**overrides)
        self.require_tokenizer()
        with self._claim(state, adapter):
            return self._stream(prompt, options, state, options_per_prompt, adapter)

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[False] = False, **keywords: Unpack[OneConversation]
    ) -> GenerationResult: ...

    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **keywords: Unpack[OneConversation]) -> TextStream: ...

    @overload
    def chat(
        self, messages: Sequence[Messages], *, stream: Literal[False] = False, **keywords: Unpack[SeveralConversations]
    ) -> list[GenerationResult]: ...

    @overload
    def chat(
        self, messages: Sequence[Messages], *, stream: Literal[True], **keywords: Unpack[SeveralConversations]
    ) -> BatchStream: ...

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        *,
        stream: bool = False,
        state: State | None = None,
        adapter: AdapterOfPrompts = None,
        chat_template: str | None = None,
        options_per_prompt: OptionsPerPrompt | None = None,
        reasoning: ReasoningMode | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationResult | TextStream | list[GenerationResult] | BatchStream:
        """Answer a conversation, a list of {"role": ..., "content": ...}, or a list of conversations.

        Content is text, or a list of text parts as OpenAI's clients send it. Special tokens in a message are plain
        text (see `chat_prompt`). The answer ends at the folder's ends and at the one that the template writes.

        chat_template: the name of one of the folder's templates, or the text of a Jinja template; by default the
        folder's own. With `stream` the answer comes in pieces, as from `stream`.

        reasoning: "show", the default, leaves a trace of reasoning in the text. "hide" keeps it out of text and pieces,
        and gives it as `result.reasoning`. "cut" does the same; a `Conversation` then forgets it too, and a `state`
        cannot, so the two do not go together. An answer with a form has no trace.

        With a `state` that holds tokens already, `messages` are those that follow. They come after the answer it ends
        in, closed as the template does, or else after messages rendered to their end. Raises PackageError when the
        folder has no chat template, and StateError for the state of another model. Raises OptionError when the messages
        are malformed or the template refuses them.
        """
        options, mode = self.options(**overrides), check_mode(reasoning)
        if mode == "cut" and state is not None:
            raise OptionError("reasoning is 'cut'; it must be 'hide' with a state, which holds all that was said")
        prompt = self._reader.chat_prompt(chat_template)
        ends = self._ends_of(prompt)
        with self._claim(state, adapter):
            if is_list_of_conversations(messages):
                many = [self._reader.message_ids(one, prompt, ends) for one in messages]
                together = self._together(many, options, state, options_per_prompt, ends, adapter)
                if mode != "show":
                    together.hide_reasoning([self.reasoning_of(ids) for ids in many])
                answer: TextStream | BatchStream = together
            else:
                ids = self._reader.message_ids(cast("Sequence[Message]", messages), prompt, ends, state)
                alone = self._alone(ids, options, state, options_per_prompt, ends, adapter)
                if mode != "show":
                    alone.hide_reasoning(self.reasoning_of(ids))
                answer = alone
            return answer if stream else answer.read_all()

    def reasoning_of(self, prompt_ids: Sequence[int]) -> Reasoning:
        """Tells a trace from the answer to a prompt, whose template may have begun the trace.

        Raises OptionError for tags that are special tokens, which no text shows.
        """
        special = [tags.begin for tags in TAGS if self.tokenizer.special_id(tags.begin) is not None]
        if special:
            raise OptionError(
                f"reasoning must be 'show' for this model, as {special[0]} is a special token, which no text shows"
            )
        return Reasoning(begun_by(self.tokenizer.decode(list(prompt_ids[-LONGEST_TAG:]), skip_special_tokens=False)))

    def answer_each(
        self, prompts: Iterable[tuple[Prompt | Messages, GenerationOptions] | OptionError]
    ) -> Iterator[tuple[int, GenerationResult | OptionError]]:
        """Answer any number of prompts and conversations together, each with options of its own.

        Yields the number of a prompt, from 0, and its result as soon as that is there; for one that cannot be answered,
        the error. An error in place of a prompt is handed on. Prompts are taken as places in the batch become free,
        at most 1024 from the first unfinished one on.
        """
        return self.answers.each(map(self._asked, prompts))

    def check_options(self, options: GenerationOptions) -> None:
        """OptionError for options with which `answer_each` answers no prompt, such as a form that cannot be had."""
        check_taken_together(options)
        self.answers.check_options(options)

    def _asked(self, item: tuple[Prompt | Messages, GenerationOptions] | OptionError) -> Asked | OptionError:
        if isinstance(item, OptionError):
            return item
        prompt, options = item
        try:
            check_taken_together(options)
            if not are_messages(prompt):
                return Asked(self._reader.next_ids(cast(Prompt, prompt)), options, self.defaults.eos_token_ids)
            template = self._reader.chat_prompt()
            ends = self._ends_of(template)
            return Asked(self._reader.message_ids(prompt, template, ends), options, ends)
        except OptionError as error:
            return error

    def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Prompt],
        *,
        state: State | None = None,
        logprobs: int = 0,
        adapter: str | None = None,
    ) -> list[Score]:
        """How likely each of several continuations of `prompt` is; their shared beginning is computed once.

        A continuation is text or token ids, as the prompt is. Text is cut into tokens together with the prompt. A token
        across the border belongs to the continuation. logprobs: so many best tokens are returned in each place.

        With a `state` the prompt goes on there, and may be empty behind an answer; the state stays where it is.
        Raises the errors of `generate`.
        """
        best = self.options(logprobs=logprobs).logprobs or 0
        decoder = self._of(state, adapter).decoder
        with self._claim(state, adapter):
            own = decoder.new_state() if state is None else state.copy()
        pairs = self._reader.continuations(prompt, continuations, state)
        return score(decoder, own, pairs, best)

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that calls may take."""
        return [] if self._adapters is None else self._adapters.names

    def add_adapter(self, name: str, path: str | Path) -> None:
        """Let calls take the adapter in an .onnx_adapter file of this base, under a name of its own.

        Raises OptionError where the name is taken or not allowed, and PackageError where the file does not fit.
        """
        if not isinstance(path, str | Path):
            raise OptionError(f"path is {path!r}; it must be the path of an .onnx_adapter file, a text or a Path")
        self._need_adapters(name).add(name, Path(path))

    def with_adapter(self, name: str) -> Model:
        """The model that computes with an adapter; it shares base and tokenizer with this one.

        Raises OptionError where there is none of that name, and PackageError where its file does not fit.
        """
        if not isinstance(name, str):
            raise OptionError(f"adapter is {name!r}; it must be the name of one, a text")
        adapters = self._need_adapters(name)
        if name not in self._adapted:
            max_streams, cache_mb = self._merging
            adapted = copy.copy(self)
            adapted._base = self._base or self
            adapted.decoder = adapters.decoder(name)
            adapted.answers = Answers(
                adapted.decoder, self._tokenizer, self._reader, max_streams, cache_mb, self.assistant
            )
            self._adapted.setdefault(name, adapted)
        return self._adapted[name]

    def _need_adapters(self, name: str) -> Adapters:
        if self._adapters is None:
            raise OptionError(f"adapter is {name!r}, but this model was loaded without a folder; use doge_export.load")
        return self._adapters

    def _of(self, state: State | None, adapter: object) -> Model:
        """The model that computes a call: with the adapter given, else the state's, else this one."""
        if isinstance(adapter, list | tuple):
            raise OptionError(f"adapter is {adapter!r}; it must be one name, as there is one prompt")
        if adapter is not None:
            return self.with_adapter(cast(str, adapter))
        made_by = state.description.adapter if isinstance(state, State) else ""
        # a model that computes with an adapter already refuses the state of another one
        return self.with_adapter(made_by) if made_by and self._base is None and made_by in self.adapters else self

    @property
    def classifier(self) -> Classifier:
        """The labels of an exported classifier; OptionError for a folder that writes text."""
        if self._classifier is None:
            raise OptionError(
                f"{self.name} writes text and has no labels; give the export of a classifier (train.classify makes one)"
            )
        return self._classifier

    @overload
    def classify(self, texts: str | Messages, *, truncate: bool = False) -> Classification: ...

    @overload
    def classify(
        self, texts: list[str] | list[list[int]] | list[Messages], *, truncate: bool = False
    ) -> list[Classification]: ...

    def classify(
        self, texts: str | Messages | list[str] | list[list[int]] | list[Messages], *, truncate: bool = False
    ) -> Classification | list[Classification]:
        """The labels of a text or a list of them with their scores, or a reward model's numbers.

        A text may be a conversation, as reward models read it, or a list of token ids. truncate: cut texts that are too
        long, where the model has a longest text, instead of refusing them.

        Raises:
            OptionError: the folder is no classifier's; or a text has no token, or too many.
            PackageError: texts are asked of a folder without tokenizer, or messages of one without chat template.
        """
        classifier = self.classifier
        alone = isinstance(texts, str) or are_messages(texts)
        if not isinstance(texts, str | list | tuple):
            raise OptionError(f"texts is of type {type(texts).__name__}; it must be a text or a list of texts")
        rows = fitting_rows([texts] if alone else texts, self.token_row, classifier.graph.description.longest, truncate)
        found = classifier.classify(rows)
        return found[0] if alone else found

    def token_row(self, text: str | Messages | Sequence[int]) -> list[int]:
        """Token ids of a whole text, conversation or row of token ids, as a classifier reads it."""
        return self._reader.row_ids(text)

    def new_state(self, adapter: str | None = None) -> State:
        """An empty stream."""
        state = self._of(None, adapter).decoder.new_state()
        if self.assistant is not None:
            state.history = TokenHistory()
        return state

    def prefill(self, prompt: Prompt, state: State | None = None, adapter: str | None = None) -> State:
        """Feed `prompt` to `state`, or to a new one, without an answer; returns that state.

        The next prompt needs a token of its own. Raises the errors of `generate`.
        """
        decoder = self._of(state, adapter).decoder
        with self._claim(state, adapter):
            token_ids = self._reader.next_ids(prompt, state)
            state = self.new_state(adapter) if state is None else state
            decoder.forward(state, np.asarray(token_ids, dtype=np.int64))
            return state

    def load_state(self, path: str | Path, adapter: str | None = None) -> State:
        """The state that `state.save(path)` wrote; it goes on exactly as the saved one.

        adapter: with which it was made. Raises StateError when the file is missing, damaged, of another format version,
        or from another model or adapter.
        """
        return self._of(None, adapter).decoder.load_state(path)

    def logits(
        self, token_ids: Sequence[int] | NDArray[np.integer[Any]], adapter: str | None = None
    ) -> NDArray[np.float32]:
        """Logits after every token of a sequence from its start: int [len] to float32 [len, vocab]."""
        ids = np.asarray(self._reader.checked_ids(token_ids), dtype=np.int64)
        decoder = self._of(None, adapter).decoder
        return decoder.forward(decoder.new_state(), ids, logits_to_keep="all").copy()

    def count_tokens(self, prompt: Prompt | Sequence[Message], chat_template: str | None = None) -> int:
        """Number of tokens that `generate` feeds for a text, or `chat` for messages, at the beginning of a stream."""
        if are_messages(prompt):
            return len(self._reader.message_ids(prompt, self._reader.chat_prompt(chat_template), frozenset()))
        return len(self.tokenizer.encode(prompt) if isinstance(prompt, str) else self._reader.checked_ids(prompt))

    @property
    def context_size(self) -> int:
        """Tokens that the model sees at once, its window. A stream may be longer: then it evicts keys."""
        return self.decoder.keep_window_size

    @property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer; PackageError when it has none."""
        return self._reader.tokenizer

    def require_tokenizer(self) -> Tokenizer:
        """The folder's tokenizer; PackageError when it has none."""
        return self._reader.tokenizer

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be used."""
        return self._reader.has_chat_template

    @property
    def chat_template(self) -> ChatTemplate:
        """The folder's template of the name `default`; PackageError when it has none."""
        return self._reader.chat_prompt().template

    @property
    def chat_prompt(self) -> ChatPrompt:
        """The folder's template and tokenizer as `chat` uses them; PackageError when it has no template."""
        return self._reader.chat_prompt()

    @property
    def turn_ends(self) -> Ends:
        """Tokens that end an answer of `chat`, as in llama.cpp.

        They are the folder's ends of a sequence, the tokenizer's `eos_token`, and the end that the template writes
        behind an answer.
        """
        return self._ends_of(self._reader.chat_prompt() if self.has_chat_template else None)

    def options(self, **overrides: Unpack[GenerationOverrides]) -> GenerationOptions:
        """The folder's default options with the given ones in place; OptionError for one that is not allowed."""
        return self.defaults.options.with_overrides(overrides)

    def continue_state(
        self,
        state: State,
        token_ids: Sequence[int],
        options: GenerationOptions,
        past_ids: Sequence[int] = (),
        ends: Ends | None = None,
        on_prompt: OnPrompt | None = None,
    ) -> TextStream:
        """Feed exactly `token_ids` to `state`, whatever its unfed token, and stream the answer.

        past_ids: the tokens before them, where they are known; prompt lookup and no_repeat_ngram_size look at them too.
        ends: tokens that end the answer, unless ends are ignored; None takes the folder's.
        on_prompt: called after each chunk of a long prompt with the tokens fed so far and their number in all.
        """
        ends = self.defaults.eos_token_ids if ends is None else ends
        return self._of(state, None).answers.continue_state(state, token_ids, options, ends, past_ids, on_prompt)

    def _stream(
        self,
        prompt: Prompt | Prompts,
        options: GenerationOptions,
        state: State | None,
        options_per_prompt: OptionsPerPrompt | None,
        adapter: AdapterOfPrompts,
    ) -> TextStream | BatchStream:
        ends = self.defaults.eos_token_ids
        if is_list_of_prompts(prompt):
            many = [self._reader.next_ids(one) for one in prompt]
            return self._together(many, options, state, options_per_prompt, ends, adapter)
        ids = self._reader.next_ids(cast(Prompt, prompt), state)
        return self._alone(ids, options, state, options_per_prompt, ends, adapter)

    def _alone(
        self,
        token_ids: list[int],
        options: GenerationOptions,
        state: State | None,
        per_prompt: object,
        ends: Ends,
        adapter: AdapterOfPrompts,
    ) -> TextStream:
        if per_prompt is not None:
            raise OptionError(
                "options_per_prompt belongs to a list of prompts; give one prompt's options by their names"
            )
        answers = self._of(state, adapter).answers
        if state is None:
            return answers.begin(token_ids, options, ends)
        return answers.continue_state(state, token_ids, options, ends)

    def _together(
        self,
        prompts: list[list[int]],
        options: GenerationOptions,
        state: State | None,
        per_prompt: OptionsPerPrompt | None,
        ends: Ends,
        adapter: AdapterOfPrompts,
    ) -> BatchStream:
        if state is not None:
            raise OptionError("a list of prompts takes no state; give one prompt, or leave the state out")
        own = options_of_prompts(options, len(prompts), per_prompt)
        if not isinstance(adapter, list | tuple):
            return self._of(None, adapter).answers.begin_together(prompts, own, ends)
        if len(adapter) != len(prompts):
            raise OptionError(f"adapter has {len(adapter)} names; it must have one for each of {len(prompts)} prompts")
        base = self._base or self
        answers = [(base if name is None else base.with_adapter(name)).answers for name in adapter]
        return begin_by_each(answers, prompts, own, ends)

    def _ends_of(self, prompt: ChatPrompt | None) -> Ends:
        """Tokens that end an answer to messages that a template has written."""
        eos_text = self.tokenizer.special_tokens.get("eos_token", "")
        ends = (self.tokenizer.special_id(eos_text), None if prompt is None else prompt.turn_end)
        return self.defaults.eos_token_ids.union(token_id for token_id in ends if token_id is not None)

    def _claim(self, state: State | None, adapter: object = None) -> AbstractContextManager[None]:
        """The claim of a given state, which must be one of this model and of the adapter, if one is given."""
        if state is None:
            return nullcontext()
        self._of(state, adapter).decoder.check_state(state)
        return state.claim
