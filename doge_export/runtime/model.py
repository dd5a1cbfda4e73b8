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

import os
from collections.abc import Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, PackageError
from .batch_generation import BatchGeneration
from .decoder import Decoder
from .folder_files import REMEDY, TOKENIZER_FILE
from .generation import LogitsSource, SingleSteps, TokenDecoder, TokenSelector, generate_tokens
from .generation_options import GenerationDefaults, GenerationOptions, GenerationOverrides
from .hub import folder_of
from .prompt_lookup import PromptLookup
from .state import State
from .streaming import GenerationResult, TextStream
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .chat_prompt import ChatPrompt
    from .chat_template import ChatTemplate, Message

Prompt = str | Sequence[int] | NDArray[np.integer[Any]]
Prompts = list[str] | list[list[int]] | list[NDArray[np.integer[Any]]]


def load(
    folder: str | Path, threads: int | None = None, revision: str | None = None, local_files_only: bool = False
) -> Model:
    """Load an exported folder, local or of the model hub.

    Args:
        folder: its path, or a hub id such as "owner/name".
        threads: of the computation; None takes one for small models, else one per core.
        revision: branch, tag or commit of a hub repository.
        local_files_only: take a hub id from the cache alone, without asking the hub; so does HF_HUB_OFFLINE=1.

    Raises:
        PackageError: the folder is no export or a damaged one, or the hub has it not.
        OptionError: an impossible number of threads.
    """
    path = folder_of(folder, revision, local_files_only)
    decoder, tokenizer = Decoder(path, threads=threads), Tokenizer.from_folder(path)
    if tokenizer is not None and tokenizer.vocab_size > decoder.vocab_size:
        raise PackageError(
            f"{path / TOKENIZER_FILE} has {tokenizer.vocab_size} tokens, but the model {decoder.vocab_size}, so it "
            f"belongs to another model; {REMEDY}"
        )
    return Model(
        decoder,
        tokenizer=tokenizer,
        defaults=GenerationDefaults.from_folder(path),
        name=os.fsencode(Path(folder).name or path.resolve().name).decode(
            "utf-8", "replace"
        ),  # a name may be any bytes
    )


class Model:
    """A decoder with its tokenizer, chat template and generation settings.

    The keywords of `generate`, `stream` and `chat` are the fields of `GenerationOptions`: max_new_tokens, temperature
    (0 is greedy), top_p, stop, seed and more. One left out takes the folder's default.

    All three, and `prefill`, continue a `state` when one is given, else a new one. A state is one stream of tokens, and
    the call advances it in place, so a prompt holds only new text. The last token of an answer is fed with the next
    prompt; until then it is the state's `unfed_token`. A state is never too long, and the repetition penalty knows all
    of it. `state.copy()` branches, `state.save(path)` and `load_state` keep it on disk.

    Calls from several threads do not disturb each other, each having a state of its own.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        tokenizer: Tokenizer | None = None,
        defaults: GenerationDefaults | None = None,
        name: str = "model",
    ) -> None:
        self.decoder = decoder
        self.defaults = defaults or GenerationDefaults()
        self.name = name
        self._tokenizer = tokenizer

    @overload
    def generate(
        self, prompt: Prompt, *, state: State | None = None, **overrides: Unpack[GenerationOverrides]
    ) -> GenerationResult: ...

    @overload
    def generate(self, prompt: Prompts, **overrides: Unpack[GenerationOverrides]) -> list[GenerationResult]: ...

    def generate(
        self,
        prompt: Prompt | Prompts,
        *,
        state: State | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationResult | list[GenerationResult]:
        """Continue `prompt`, a string or token ids, or with `state` that stream and `prompt` after it.

        A list of prompts is answered together, several times faster than one after the other, and each as if alone.
        The prompt may be empty when the state ends in an answer: then that goes on. Special tokens are put around a
        text only where a stream begins.

        Raises:
            OptionError: a prompt or an option is not allowed.
            StateError: the state is another model's.
            PackageError: text is asked of a folder without tokenizer.
        """
        options = self.options(**overrides)
        if is_list_of_prompts(prompt):
            return self._generate_batch(prompt, state, options)
        state = self._checked_state(state)
        with state.claim:
            return self.continue_state(state, self._next_ids(cast(Prompt, prompt), state), options).read_all()

    def _generate_batch(
        self, prompts: Prompts, state: State | None, options: GenerationOptions
    ) -> list[GenerationResult]:
        if state is not None:
            raise OptionError("a list of prompts takes no state; give one prompt, or leave the state out")
        if options.prompt_lookup_num_tokens:
            raise OptionError("a list of prompts takes no prompt_lookup_num_tokens; give one prompt, or set it to 0")
        if options.stop:
            self.require_tokenizer()
        empty, stop_ids = self.new_state(), self._stop_ids(options)
        generation = BatchGeneration(
            self.decoder,
            lambda prompt_ids: TokenSelector(options, stop_ids, prompt_ids),
            lambda length: TextStream(iter(()), self._tokenizer, options.stop, length),
        )
        return [stream.result for stream in generation.run([self._next_ids(prompt, empty) for prompt in prompts])]

    def stream(
        self, prompt: Prompt, *, state: State | None = None, **overrides: Unpack[GenerationOverrides]
    ) -> TextStream:
        """Like `generate`, but the text comes in pieces while it is made; no piece splits a character.

        The pieces add up to the text of `generate`; after the last one, `result` of the stream has the other numbers.
        """
        options = self.options(**overrides)
        self.require_tokenizer()
        state = self._checked_state(state)
        return self.continue_state(state, self._next_ids(prompt, state), options)

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[False] = False,
        state: State | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationResult: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[True],
        state: State | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> TextStream: ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: bool = False,
        state: State | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationResult | TextStream:
        """Answer a conversation, a list of {"role": ..., "content": ...}, by the folder's chat template.

        Content is text, or a list of text parts as OpenAI's clients send it. Special tokens in a message are plain
        text (see `chat_prompt`). The answer ends at the folder's ends and at the one that the template writes.

        With `stream` the answer comes in pieces, as from `stream`. With a `state` that holds tokens already, `messages`
        are those that follow. They come after the answer it ends in, closed as the template does, or else after
        messages rendered to their end. Raises PackageError when the folder has no chat template, and StateError for the
        state of another model. Raises OptionError when the messages are malformed or the template refuses them.
        """
        options = self.options(**overrides)
        state = self._checked_state(state)
        with state.claim:
            answer = self.continue_state(state, self._message_ids(messages, state), options, ends=self.turn_ends)
            return answer if stream else answer.read_all()

    def new_state(self) -> State:
        """An empty stream."""
        return self.decoder.new_state()

    def prefill(self, prompt: Prompt, state: State | None = None) -> State:
        """Feed `prompt` to `state`, or to a new one, without an answer; returns that state.

        The next prompt needs a token of its own. Raises the errors of `generate`.
        """
        state = self._checked_state(state)
        self.decoder.forward(state, np.asarray(self._next_ids(prompt, state), dtype=np.int64))
        return state

    def load_state(self, path: str | Path) -> State:
        """The state that `state.save(path)` wrote; it goes on exactly as the saved one.

        Raises StateError when the file is missing, damaged, of another format version, or from another model.
        """
        return self.decoder.load_state(path)

    def logits(self, token_ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Logits after every token of a sequence from its start: int [len] to float32 [len, vocab]."""
        ids = np.asarray(self._checked_ids(token_ids), dtype=np.int64)
        return self.decoder.forward(self.decoder.new_state(), ids, logits_to_keep="all").copy()

    @property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer; PackageError when it has none."""
        return self.require_tokenizer()

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be used."""
        return self._tokenizer is not None and bool(self._tokenizer.chat_templates)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The folder's template of the name `default`; PackageError when it has none."""
        templates = self.tokenizer.chat_templates
        if not templates:
            raise PackageError(f"the model {self.name!r} has no chat template; use generate or stream with plain text")
        if "default" not in templates:
            raise PackageError(
                f"the model {self.name!r} has the chat templates {' and '.join(sorted(templates))}, but no default; "
                "write the one to use into the folder as chat_template.jinja"
            )
        from .chat_template import ChatTemplate  # noqa: PLC0415 - jinja2 would be a tenth of a program's start

        return ChatTemplate(templates["default"], self.tokenizer.special_tokens)

    @cached_property
    def chat_prompt(self) -> ChatPrompt:
        """The folder's template and tokenizer as `chat` uses them; PackageError when it has no template."""
        from .chat_prompt import ChatPrompt  # noqa: PLC0415 - as for the template

        return ChatPrompt(self.chat_template, self.tokenizer)

    @property
    def turn_ends(self) -> frozenset[int]:
        """Tokens that end an answer of `chat`, as in llama.cpp.

        They are the folder's ends of a sequence, the tokenizer's `eos_token`, and the end that the template writes
        behind an answer.
        """
        eos_text = self.tokenizer.special_tokens.get("eos_token", "")
        template_end = self.chat_prompt.turn_end if self.has_chat_template else None
        ends = (self.tokenizer.special_id(eos_text), template_end)
        return self.defaults.eos_token_ids.union(token_id for token_id in ends if token_id is not None)

    def options(self, **overrides: Unpack[GenerationOverrides]) -> GenerationOptions:
        """The folder's default options with the given ones in place; OptionError for one that is not allowed."""
        return self.defaults.options.with_overrides(overrides)

    def continue_state(
        self,
        state: State,
        token_ids: Sequence[int],
        options: GenerationOptions,
        past_ids: Sequence[int] = (),
        ends: frozenset[int] | None = None,
    ) -> TextStream:
        """Feed exactly `token_ids` to `state`, whatever its unfed token, and stream the answer.

        past_ids: the tokens before them, where they are known; prompt lookup and no_repeat_ngram_size look at them too.
        ends: tokens that end the answer, unless ends are ignored; None takes the folder's.
        """
        if options.stop:
            self.require_tokenizer()
        self._check_tokens(token_ids)
        guesses = options.prompt_lookup_num_tokens
        lookup = PromptLookup(self.decoder, guesses, past_ids) if guesses else None
        source: LogitsSource = lookup or SingleSteps(self.decoder)
        tokens = generate_tokens(source, state, token_ids, options, self._stop_ids(options, ends), past_ids)
        return TextStream(tokens, self._tokenizer, options.stop, len(token_ids), lookup)

    def _check_tokens(self, token_ids: Sequence[int]) -> None:
        """PackageError for a token that the model does not have; texts come here as the tokenizer cuts them."""
        if not token_ids:
            raise OptionError("the prompt makes no token; give other text")
        if max(token_ids) >= self.decoder.vocab_size:
            raise PackageError(
                f"the tokenizer of {self.name!r} gives token {max(token_ids)}, but the model has "
                f"{self.decoder.vocab_size} tokens; export the model again with its own tokenizer"
            )

    def require_tokenizer(self) -> Tokenizer:
        """The folder's tokenizer; PackageError when it has none."""
        if self._tokenizer is None:
            raise PackageError(f"the model {self.name!r} has no tokenizer.json; give token ids and read token_ids")
        return self._tokenizer

    def _stop_ids(self, options: GenerationOptions, ends: frozenset[int] | None = None) -> frozenset[int]:
        """Tokens that end an answer, and special tokens named as stop strings: those never show in the text."""
        if ends is None:
            ends = self.defaults.eos_token_ids
        if options.ignore_eos:
            ends = frozenset()
        if self._tokenizer is None:
            return ends
        named = (self._tokenizer.special_id(text) for text in options.stop)
        return ends.union(token_id for token_id in named if token_id is not None)

    def _checked_state(self, state: State | None) -> State:
        if state is None:
            return self.decoder.new_state()
        self.decoder.check_state(state)
        return state

    def _next_ids(self, prompt: Prompt, state: State) -> list[int]:
        """The token that `state` has not been fed of its stream, then the prompt."""
        unfed = [] if state.unfed_token is None else [state.unfed_token]
        is_empty = isinstance(prompt, str | Sequence | np.ndarray) and len(prompt) == 0
        if is_empty and unfed:
            return unfed
        if is_empty and state.position:
            raise OptionError(
                f"the prompt is empty, and all {state.position} tokens of the state are fed; "
                "give the token after them, or prefill all tokens but the last"
            )
        if isinstance(prompt, str):
            if not prompt:
                raise OptionError("the prompt is empty; give at least one character")
            begins = state.position == 0 and not unfed
            return unfed + self._checked_ids(self.tokenizer.encode(prompt, add_special_tokens=begins))
        return unfed + self._checked_ids(prompt)

    def _message_ids(self, messages: Sequence[Message], state: State) -> list[int]:
        """Token ids of `messages`, and of all that must stand between them and the tokens of `state`."""
        prompt, unfed = self.chat_prompt, state.unfed_token
        if state.position == 0 and unfed is None:
            return prompt.encode(prompt.render(messages))
        text = prompt.render_after(messages, in_answer=unfed is not None)
        if unfed is None:
            return prompt.encode(text)
        end = self.tokenizer.decode([unfed], skip_special_tokens=False)
        if unfed in self.turn_ends:
            # The template writes the answer's own end there, or another, which takes its place.
            return ([unfed] if text.startswith(end) else []) + prompt.encode(text.removeprefix(end))
        return [unfed, *prompt.encode(text)]

    def _checked_ids(self, token_ids: object) -> list[int]:
        if isinstance(token_ids, np.ndarray):
            token_ids = token_ids.tolist()
        if not isinstance(token_ids, list | tuple | range):
            raise OptionError(f"the prompt is a {type(token_ids).__name__}; it must be text or a list of token ids")
        if not token_ids:
            raise OptionError("the prompt is empty; give at least one token id")
        for index, token_id in enumerate(token_ids):
            if isinstance(token_id, bool) or not isinstance(token_id, Integral):
                raise OptionError(f"token {index} of the prompt is {token_id!r}; it must be a whole number")
            if not 0 <= int(token_id) < self.decoder.vocab_size:
                raise OptionError(
                    f"token {index} of the prompt is {token_id}; it must be from 0 to {self.decoder.vocab_size - 1}"
                )
        return [int(token_id) for token_id in token_ids]


def is_list_of_prompts(prompt: Prompt | Prompts) -> TypeGuard[Prompts]:
    """Whether `prompt` is several: a list whose items are texts or sequences themselves, not token ids."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list | np.ndarray)
