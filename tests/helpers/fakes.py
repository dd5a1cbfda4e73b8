"""Stand-ins for the text side of the runtime: decoders without a model, and small tokenizers built on the spot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from doge_export.errors import OptionError, RewindError, StateError
from doge_export.runtime.generation_options import GenerationDefaults, GenerationOptions
from doge_export.runtime.model import Model
from doge_export.runtime.tokenizer import Tokenizer

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class FakeState:
    """The tokens of one stream, with the rules of a real state."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.tokens: list[int] = []
        self.unfed_token: int | None = None
        self.metadata: dict[str, str] = {}

    @property
    def position(self) -> int:
        return len(self.tokens)

    @property
    def overflowed(self) -> bool:
        return len(self.tokens) > self.window

    def seen_tokens(self) -> NDArray[np.int64]:
        return np.unique(np.array(self.tokens, np.int64))

    def copy(self) -> FakeState:
        other = FakeState(self.window)
        other.tokens, other.unfed_token, other.metadata = [*self.tokens], self.unfed_token, {**self.metadata}
        return other

    def truncate(self, position: int) -> None:
        if position < len(self.tokens) and self.overflowed:
            raise RewindError("overflowed")
        del self.tokens[position:]
        self.unfed_token = None

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        if Path(path).exists() and not overwrite:
            raise StateError("exists already")
        Path(path).write_text(json.dumps([self.tokens, self.unfed_token, self.metadata]))


class BigramDecoder:
    """The logits after a token are the token's row of a float32 [vocab, vocab] table."""

    def __init__(self, table: NDArray[np.float32], keep_window_size: int = 64) -> None:
        self.table = table
        self.vocab_size = len(table)
        self.keep_window_size = keep_window_size
        self.fed: list[int] = []

    def new_state(self) -> FakeState:
        return FakeState(self.keep_window_size)

    def load_state(self, path: str | Path) -> FakeState:
        state = self.new_state()
        state.tokens, state.unfed_token, state.metadata = json.loads(Path(path).read_text())
        return state

    def check_state(self, state: FakeState) -> None:
        if not isinstance(state, FakeState):
            raise OptionError("no state")

    def forward(
        self, state: FakeState, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        state.tokens += token_ids.tolist()
        state.unfed_token = None
        self.fed += token_ids.tolist()
        count = {"last": 1, "all": len(token_ids)}.get(logits_to_keep, logits_to_keep)
        return self.logits(token_ids[len(token_ids) - count :])

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.table[token_ids]


class ScriptedDecoder(BigramDecoder):
    """Wants the tokens of a script one after the other, whatever it is fed, then again from the start."""

    def __init__(self, script: Sequence[int], vocab_size: int, keep_window_size: int = 4096) -> None:
        super().__init__(np.zeros((vocab_size, 0), np.float32), keep_window_size)
        self.script = list(script)
        self.cursor = 0

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        wanted = self.script[self.cursor % len(self.script)]
        self.cursor += 1
        row = np.zeros((1, self.vocab_size), np.float32)
        row[0, wanted] = 9
        return row


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


def defaults_for(tokenizer: Tokenizer, **options: object) -> GenerationDefaults:
    """Greedy defaults that stop at the tokenizer's eos_token."""
    eos = tokenizer.special_id(tokenizer.special_tokens["eos_token"])
    assert eos is not None
    return GenerationDefaults(GenerationOptions(**options), frozenset({eos}))  # type: ignore[arg-type]  # the tests' keywords are not typed


def model_saying(*answers: str, template: str | None = CHATML, window: int = 4096, end: str = "<|im_end|>") -> Model:
    """A byte-level model whose greedy answers are these, one after the other; both ends of a text stop it."""
    tokenizer = byte_level_tokenizer(template)
    script = [token_id for answer in answers for token_id in tokenizer.encode(answer + end)]
    ends = frozenset(tokenizer.encode("<|im_end|><|endoftext|>"))
    decoder = ScriptedDecoder(script, vocab_size=259, keep_window_size=window)
    return Model(decoder, tokenizer, GenerationDefaults(GenerationOptions(), ends), "scripted")
