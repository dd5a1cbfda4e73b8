"""Stand-ins for the text side of the runtime: decoders without a model, and small tokenizers built on the spot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from doge_export.errors import OptionError, StateError
from doge_export.runtime.conversation import Conversation
from doge_export.runtime.description import DRAFT_TOKENS, FORMAT_VERSIONS, DecoderDescription
from doge_export.runtime.generation_options import GenerationDefaults, GenerationOptions
from doge_export.runtime.model import Model
from doge_export.runtime.state import State
from doge_export.runtime.tokenizer import Tokenizer

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class BigramDecoder:
    """The logits after a token are the token's row of a float32 [vocab, vocab] table.

    Its states are real ones, of a decoder with one layer, one head and one channel, without mask. A key is the number
    of its token. A full window evicts the oldest.

    Attributes:
        fed: every token that any stream was fed, in order.
    """

    def __init__(self, table: NDArray[np.float32], keep_window_size: int = 64) -> None:
        self.table = table
        self.vocab_size = len(table)
        self.keep_window_size, self.kernels = keep_window_size, "a table"
        self.cuts_freely = True
        self.fed: list[int] = []
        self.description = DecoderDescription(
            format_version=FORMAT_VERSIONS["float32"],
            vocab_size=self.vocab_size,
            keep_window_size=keep_window_size,
            num_layers=1,
            num_kv_heads=1,
            num_recurrent_heads=1,
            channels=1,
            head_dim=1,
            mask_channels=0,
            weights_sha256=hashlib.sha256(table.tobytes()).hexdigest(),
        )

    def new_state(self) -> State:
        return State(self.description)

    def new_batch(self, size: int) -> FakeBatch:
        return FakeBatch(self, size)

    def load_state(self, path: str | Path) -> State:
        return State.load(path, self.description)

    def check_state(self, state: State) -> None:
        if not isinstance(state, State):
            raise OptionError(f"state is {state!r}; it must be a State")
        if state.description != self.description:
            raise StateError("the state belongs to another model")

    def forward(
        self, state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        self.check_state(state)
        for index in range(len(token_ids)):
            self._write(state, token_ids[index : index + 1])
            state.take_in(token_ids[index : index + 1])
        self.fed += token_ids.tolist()
        counts = {"last": 1, "all": len(token_ids)}
        count = logits_to_keep if isinstance(logits_to_keep, int) else counts[logits_to_keep]
        return self.logits(token_ids[len(token_ids) - count :])

    def room_for_draft(self, state: State) -> int:
        return DRAFT_TOKENS - 1 if state.position + DRAFT_TOKENS <= self.keep_window_size else 0

    def check_draft(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        assert len(token_ids) - 1 <= self.room_for_draft(state)
        self._write(state, token_ids)
        return self.logits(token_ids)

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [n, vocab] after each of int64 [n] tokens."""
        return self.table[token_ids]

    def kept_tokens(self, state: State) -> list[int]:
        """The tokens whose keys a state holds, in the order of the stream: all, or the last of a full window."""
        tokens = state.cache[0, 0, 0, : min(state.position, self.keep_window_size), 0]
        if state.overflowed:
            tokens = tokens[state.full_window().keys.positions[0, 0].argsort()]
        return [int(token) for token in tokens]

    def _write(self, state: State, token_ids: NDArray[np.int64]) -> None:
        """The rows of int64 [n] tokens, as a graph does; one at a time in a full window."""
        positions = state.position + np.arange(len(token_ids))
        slots = positions % self.keep_window_size
        if state.position >= self.keep_window_size:
            state.full_window().keys.positions[..., slots] = positions
        state.cache[..., slots, 0] = token_ids


class FakeBatch:
    """Streams that take their steps one by one."""

    def __init__(self, decoder: BigramDecoder, size: int) -> None:
        self._decoder, self._size = decoder, size
        self.states: list[State] = []

    def open(self, state: State | None = None) -> State:
        assert len(self.states) < self._size
        self.states.append(self._decoder.new_state() if state is None else state.copy())
        return self.states[-1]

    def close(self, row: int) -> None:
        last = self.states.pop()
        if row < len(self.states):
            self.states[row] = last.copy()

    def forward(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        pairs = zip(self.states, token_ids, strict=True)
        return np.concatenate([self._decoder.forward(state, np.array([token_id])) for state, token_id in pairs])


class ScriptedDecoder(BigramDecoder):
    """Wants the tokens of a script one after the other, whatever it is fed, then again from the start.

    Attributes:
        cursor: place in the script of the token that is wanted next.
    """

    def __init__(self, script: Sequence[int], vocab_size: int, keep_window_size: int = 4096) -> None:
        super().__init__(np.zeros((vocab_size, 0), np.float32), keep_window_size)
        self.script = list(script)
        self.cursor = 0

    def room_for_draft(self, state: State) -> int:
        return 0  # a step that is taken back would move the cursor

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """One row, whatever is asked."""
        wanted = self.script[self.cursor % len(self.script)]
        self.cursor += 1
        row = np.zeros((1, self.vocab_size), np.float32)
        row[0, wanted] = 9
        return row


class ScriptedModel(Model):
    """A model whose decoder has a script."""

    decoder: ScriptedDecoder

    def kept_text(self, state: State) -> str:
        """Of the tokens whose keys a state holds, special ones included."""
        return self.tokenizer.decode(self.decoder.kept_tokens(state), skip_special_tokens=False)


def state_of(conversation: Conversation) -> State:
    """The state that a conversation feeds."""
    return conversation.state


def random_table(vocab_size: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=3, size=(vocab_size, vocab_size)).astype(np.float32)


def byte_level_tokenizer(chat_template: str | None = CHATML) -> Tokenizer:
    """GPT-2's alphabet without merges: every byte is a token; the special tokens follow from id 256 on."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    templates = {} if chat_template is None else {"default": chat_template}
    return Tokenizer(backend, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, templates)


def sentencepiece_tokenizer() -> Tokenizer:
    """Llama 2's manner: a space is '\u2581', one stands before every text, unknown characters are byte tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "he", "llo", "wor", "ld"]
    pieces += ["\u2581hello", "\u2581world", *"abcdefghijklmnopqrstuvwxyz.,!"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>"})


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the tokenizer has."""
    token_id = tokenizer._backend.token_to_id(token)
    assert isinstance(token_id, int)
    return token_id


def defaults_for(tokenizer: Tokenizer, **options: Any) -> GenerationDefaults:
    """Greedy defaults that stop at the tokenizer's eos_token."""
    eos = id_of(tokenizer, tokenizer.special_tokens["eos_token"])
    return GenerationDefaults(GenerationOptions(**options), frozenset({eos}))


def model_saying(
    *answers: str, template: str | None = CHATML, window: int = 4096, end: str = "<|im_end|>"
) -> ScriptedModel:
    """A byte-level model whose greedy answers are these, one after the other; both ends of a text stop it."""
    tokenizer = byte_level_tokenizer(template)
    script = [token_id for answer in answers for token_id in tokenizer.encode(answer + end)]
    ends = frozenset(tokenizer.encode("<|im_end|><|endoftext|>"))
    decoder = ScriptedDecoder(script, vocab_size=259, keep_window_size=window)
    return ScriptedModel(decoder, tokenizer, GenerationDefaults(GenerationOptions(), ends), "scripted")
