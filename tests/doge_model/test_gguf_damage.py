"""Damaged GGUF files: each ends in one sentence, and soon, whatever number stands in its header."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from gguf import GGUFEndian, GGUFValueType, GGUFWriter
from gguf.gguf_writer import GGUFValue

from doge_common.errors import CheckpointError
from doge_model import load_checkpoint
from doge_model.gguf import GgufFile
from doge_model.gguf_header import MOST_VALUES, check_header
from tests.helpers.checkpoints import add_byte_level_tokenizer, byte_level_llama, finish_gguf, save_gguf

SECONDS = 20  # for one file, on a busy machine; a stalled reader takes years


class Stalled(BaseException):
    """A file took too long. No Exception: a TimeoutError is an OSError, and would be taken for a damaged file."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise Stalled in whatever is running when the time is over."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Stalled(f"not done after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught, time_limit():
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def add_everything(writer: GGUFWriter) -> None:
    """A tokenizer, and a value of every kind."""
    add_byte_level_tokenizer(writer)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.add_eot_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_float32("general.sampling.temp", 0.5)
    writer.add_name("model")
    writer.add_array("general.languages", ["en", "de"])
    writer.add_array("general.switches", [True, False])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole file of 100 kB."""
    return save_gguf(
        tmp_path_factory.mktemp("whole") / "model.gguf", byte_level_llama(), extra=add_everything
    ).read_bytes()


def mutated(whole: bytes, seed: int) -> bytes:
    """The file with a few bits, a number or a piece of its header changed."""
    rng, data = random.Random(seed), bytearray(whole)
    at = rng.randrange(whole.index(b"output_norm") + 40)
    match seed % 4:
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:  # in one half of them near an array that the reader alone would not end to read
            at = at if seed % 8 == 1 else whole.index(b"general.switches") + rng.randrange(40)
            data[at : at + 8] = rng.choice([2**63, 2**32, len(whole), 2**20, 0]).to_bytes(8, "little")
        case 2:
            data[at : at + 4] = rng.choice([0, 1, 8, 9, 2**32 - 1]).to_bytes(4, "little")
        case 3:
            del data[at : at + rng.randrange(1, 40)]
    return bytes(data)


@pytest.mark.slow
def test_files_with_a_header_changed_at_random_load_or_are_refused_soon(whole: bytes, tmp_path: Path) -> None:
    path, refused = tmp_path / "model.gguf", 0
    for seed in range(100):
        path.write_bytes(mutated(whole, seed))
        try:
            with time_limit():
                load_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(("length", "sentence"), [(2**60, "array items"), (2**20, "go beyond its")])
@pytest.mark.parametrize("key", ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "general.switches"])
def test_an_array_longer_than_the_file_is_refused(
    key: str, length: int, sentence: str, whole: bytes, tmp_path: Path
) -> None:
    """For one byte an item, as switches have, the reader alone would read nothings for ever."""
    at = whole.index(key.encode()) + len(key) + 8  # the kinds of value and item stand between
    (tmp_path / "model.gguf").write_bytes(whole[:at] + length.to_bytes(8, "little") + whole[at + 8 :])
    assert sentence in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("at", "number", "sentence"),
    [
        (0, b"GGML", "it does not begin with 'GGUF'"),
        (4, (1).to_bytes(4, "little"), "its version is 1; it must be 2 or 3"),
        (8, (2**60).to_bytes(8, "little"), f"array items; it must be at most {MOST_VALUES}"),
        (16, (2**60).to_bytes(8, "little"), f"array items; it must be at most {MOST_VALUES}"),
        (24, (2**60).to_bytes(8, "little"), "go beyond its"),
    ],
    ids=["magic", "version", "tensors", "keys", "length of a key"],
)
def test_an_impossible_number_of_the_header_is_named(
    at: int, number: bytes, sentence: str, whole: bytes, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").write_bytes(whole[:at] + number + whole[at + len(number) :])
    assert sentence in refusal(tmp_path / "model.gguf")


def test_a_tensor_beyond_the_end_is_refused(whole: bytes, tmp_path: Path) -> None:
    name = b"output_norm.weight"
    at = whole.index(name) + len(name) + 4 + 8 + 4  # one dimension, the type, then the offset
    (tmp_path / "model.gguf").write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    assert "its tensors end at byte" in refusal(tmp_path / "model.gguf")


def test_arrays_of_arrays_are_refused(tmp_path: Path) -> None:
    path = save_gguf(
        tmp_path / "model.gguf", byte_level_llama(), extra=lambda writer: writer.add_array("nested", [[1], [2]])
    )
    assert "has type 9, which no number or string has" in refusal(path)


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    finish_gguf(GGUFWriter(tmp_path / "model.gguf", "llama", endianess=GGUFEndian.BIG))
    assert "its byte order is big-endian; it must be little-endian" in refusal(tmp_path / "model.gguf")


def test_a_whole_header_passes_whatever_its_alignment(tmp_path: Path) -> None:
    def align(writer: GGUFWriter) -> None:
        writer.add_custom_alignment(256)
        add_everything(writer)

    path = save_gguf(tmp_path / "model.gguf", byte_level_llama(), extra=align)
    check_header(path)
    assert load_checkpoint(path).form == "llama"


@pytest.mark.parametrize(("number", "part"), [(0, 1), (1, 2)])
def test_a_part_of_a_split_file_says_which_it_is_and_how_to_merge(number: int, part: int, tmp_path: Path) -> None:
    """As `llama-gguf-split` writes them: only the first part has metadata of the model."""
    path = tmp_path / f"m-{part:05d}-of-00003.gguf"
    writer = GGUFWriter(path, "llama")
    if number:
        writer.kv_data[0].clear()
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", 3)
    finish_gguf(writer)
    assert refusal(path) == (
        f"{path} is part {part} of the 3 of a split file; give the whole file, "
        "which `llama-gguf-split --merge m-00001-of-00003.gguf WHOLE.gguf` writes beside all parts"
    )


ODD: list[tuple[str, Any, GGUFValueType, str]] = [
    ("general.sampling.temp", "hot", GGUFValueType.STRING, "must be a number"),
    ("general.sampling.temp", -1.0, GGUFValueType.FLOAT32, "must be a number from 0 to"),
    ("general.sampling.temp", float("nan"), GGUFValueType.FLOAT32, "must be a number from 0 to"),
    ("tokenizer.chat_template", 3, GGUFValueType.UINT32, "must be text"),
    ("tokenizer.ggml.add_bos_token", "no", GGUFValueType.STRING, "must be true or false"),
    ("tokenizer.ggml.eot_token_id", 262, GGUFValueType.UINT32, "must be from 0 to 261"),
    ("tokenizer.ggml.eot_token_id", -1, GGUFValueType.INT32, "must be from 0 to 261"),
    ("tokenizer.ggml.eot_token_id", 0.0, GGUFValueType.FLOAT32, "must be a whole number"),
    ("tokenizer.ggml.unknown_token_id", 1.5, GGUFValueType.FLOAT32, "must be a whole number"),
]


@pytest.mark.parametrize(("key", "value", "kind", "sentence"), ODD)
def test_a_value_of_another_kind_is_named(
    key: str, value: object, kind: GGUFValueType, sentence: str, tmp_path: Path
) -> None:
    def add(writer: GGUFWriter) -> None:
        add_everything(writer)
        writer.kv_data[0][key] = GGUFValue(value, kind)

    path = save_gguf(tmp_path / "model.gguf", byte_level_llama(), extra=add)
    shown = "int" if sentence == "must be text" else repr(value)
    assert refusal(path).startswith(f"{path}: {key} is {shown}; it {sentence}")


def test_an_open_file_keeps_the_reader_s_own_refusals(whole: bytes, tmp_path: Path) -> None:
    """The walk knows lengths; that a name stands twice is for the reader to see."""
    twice = whole.replace(b"blk.1.ffn_up.weight", b"blk.0.ffn_up.weight")
    (tmp_path / "model.gguf").write_bytes(twice)
    check_header(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="duplicated tensor"):
        GgufFile(tmp_path / "model.gguf")


@pytest.mark.parametrize(("name", "broken"), [(b"blk.1.ffn_up", b"blk.1\nffn_up"), (b"general.name", b"general\nname")])
def test_a_name_with_a_line_break_is_refused_in_one_line(
    name: bytes, broken: bytes, whole: bytes, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").write_bytes(whole.replace(name, broken))
    assert f"{broken.decode()!r}"[1:-1] in refusal(tmp_path / "model.gguf")
