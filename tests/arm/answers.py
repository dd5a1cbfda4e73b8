"""The answers of an exported folder that x86 and ARM must share; both sides compute them here, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import STEP_FILE
from doge_export.runtime.state import State

WINDOW, TOKENS, NEW_TOKENS = 64, 110, 24
TIMES = 2  # that the stream has a token: in a window of few tokens keys are equal but for rounding, which then evicts
POSITIONS = (40, 90)  # where streams are saved: before a window is full, and after
WAYS = {"standard": False, "DogeStep": True}  # and whether it is an operator of ours
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Stream:
    """Some tokens of a stream, fed one by one.

    Attributes:
        logits: after each of them, float32 [n, vocab].
        kept: the positions of the keys that are kept after each, int64 [n, layers, heads, WINDOW]; 0 before it is full.
    """

    logits: Logits
    kept: NDArray[np.int64]

    @classmethod
    def of(cls, decoder: Decoder, state: State, ids: NDArray[np.int64]) -> Stream:
        """Feed them."""
        logits, d = [], decoder.description
        kept = np.zeros((len(ids), d.num_layers, d.num_recurrent_heads, WINDOW), np.int64)
        for i, token in enumerate(ids):
            logits.append(decoder.forward(state, np.array([token])).copy())
            if state.position > WINDOW:
                kept[i] = np.sort(state.full_window().keys.positions)
        return cls(np.concatenate(logits), kept)


@dataclass(frozen=True)
class Answers:
    """Of one folder, by one way to compute.

    Attributes:
        stream: of `stream_of`, from the start.
        tokens: the greedy ones that follow its first POSITIONS[0], int64 [NEW_TOKENS]; they just fit the window.
    """

    stream: Stream
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, decoder: Decoder) -> Answers:
        """Compute them, token by token."""
        ids, state = stream_of(decoder), decoder.new_state()
        chosen = [fed(decoder, state, ids[: POSITIONS[0]], 1)[-1].argmax()]
        while len(chosen) < NEW_TOKENS:
            chosen.append(decoder.forward(state, np.array(chosen[-1:]))[-1].argmax())
        return cls(Stream.of(decoder, decoder.new_state(), ids), np.array(chosen))

    @classmethod
    def load(cls, folder: Path, way: str) -> Answers:
        """Read those of x86."""
        with np.load(folder / f"{way}.npz") as file:
            return cls(Stream(file["logits"], file["kept"]), file["tokens"])

    def save(self, folder: Path, way: str) -> None:
        """Write them into the folder."""
        np.savez_compressed(folder / f"{way}.npz", logits=self.stream.logits, kept=self.stream.kept, tokens=self.tokens)


def open_decoder(folder: Path, way: str, threads: int = 1) -> Decoder:
    """The folder's decoder by a way to compute."""
    return Decoder(folder, threads, operators=WAYS[way])


def ways_of(folder: Path) -> list[str]:
    """The ways that a folder has."""
    return list(WAYS) if (folder / STEP_FILE).is_file() else ["standard"]


def stream_of(decoder: Decoder) -> NDArray[np.int64]:
    """Always the same random tokens, int64 [TOKENS]."""
    tokens = np.repeat(np.arange(-(-TOKENS // TIMES)) % decoder.vocab_size, TIMES)
    return np.random.default_rng(0).permutation(tokens)[:TOKENS]


def fed(decoder: Decoder, state: State, ids: NDArray[np.int64], size: int) -> Logits:
    """Logits of all tokens, fed so many at a time."""
    pieces = [ids[i : i + size] for i in range(0, len(ids), size)]
    return np.concatenate([decoder.forward(state, piece, "all").copy() for piece in pieces])


def save_states(decoder: Decoder, folder: Path, way: str, saver: str) -> None:
    """Save a stream at each of POSITIONS."""
    state, at = decoder.new_state(), 0
    for position in POSITIONS:
        fed(decoder, state, stream_of(decoder)[at:position], 1)
        at = position
        state.save(state_file(folder, way, saver, position), overwrite=True)


def state_file(folder: Path, way: str, saver: str, position: int) -> Path:
    """The file of a stream; saver: the processor that saved it."""
    return folder / f"{saver}-{way}-{position}.state"


def distance(found: Logits, expected: Logits) -> float:
    """The largest difference, as a share of the largest number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def same(found: Stream, expected: Stream, start: int, folder: Path) -> bool:
    """Whether the end of a stream from a position on is that of x86.

    In few bits a code of an activation may turn out one of 1/32767 of its block's largest number larger or smaller, and
    on ARM with the dot product there are 32,639 codes instead. Of two keys that are nearly as old and as likely, the
    other one is then evicted. From there on this is another stream, as it is by other kernels of one processor.

    Such a number may also turn out the next float16, 1/2048 away, in the state of folders of 8 bits.
    """
    logits, kept = expected.logits[start:], expected.kept[start:]
    assert found.logits.shape == logits.shape
    count = int(np.logical_and.accumulate((found.kept == kept).all(axis=(1, 2, 3))).sum())
    if folder.name.endswith("fp32"):
        return count == len(logits) and distance(found.logits, logits) < 1e-5
    rounding = 2e-3 if folder.name.endswith("int8") else 5e-4  # as in tests/operators, with float16 and without
    return (
        count >= min(len(logits), max(1, WINDOW - start + 1))
        and distance(found.logits[:count], logits[:count]) < rounding
        and same_choices(found.logits[:count], logits[:count], rounding)
    )


def same_choices(found: Logits, expected: Logits, rounding: float) -> bool:
    """Whether the first choice is the same wherever it leads by more than rounding, a share of the largest number."""
    ordered = np.sort(expected, axis=1)
    leads = ordered[:, -1] - ordered[:, -2] > 2 * rounding * np.abs(expected).max()
    return np.array_equal(found.argmax(axis=1)[leads], expected.argmax(axis=1)[leads])
