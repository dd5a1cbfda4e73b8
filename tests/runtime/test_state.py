"""A state by itself: interrupted, copied, truncated, saved; and files that are refused."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Never

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from doge_common.errors import DogeError
from doge_export import runtime
from doge_export.errors import OptionError, StateError
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.state import State
from doge_export.runtime.state_file import checksum
from tests.helpers.models import FORMS, VOCAB_SIZE, exported, random_ids, tiny_model

pytestmark = pytest.mark.usefixtures("each_way")

WINDOW = 8
LENGTHS = {"within the window": 5, "window just full": 8, "beyond the window": 30}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """One whose cache has more heads once the window is full."""
    return exported(tiny_model(**FORMS["small-doge"], keep_window_size=WINDOW), tmp_path_factory.mktemp("export"))


def fed(decoder: Decoder, ids: NDArray[np.int64]) -> State:
    state = decoder.new_state()
    decoder.forward(state, ids)
    return state


def continuation(decoder: Decoder, state: State, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of some more tokens: a chunk, then one by one."""
    chunk = decoder.forward(state, ids[:3], "all").copy()
    return np.concatenate([chunk, *(decoder.forward(state, ids[i : i + 1]).copy() for i in (3, 4))])


# Interrupted

ROOM = Path(runtime.__file__).parent
MODULES = {
    str(ROOM / f"{name}.py")
    for name in ("cache", "decoder", "eviction", "seen_tokens", "sessions", "state", "step_graph", "steps")
}


class InterruptAt:
    """Raises KeyboardInterrupt before the n-th instruction that the runtime's own code executes within the block."""

    def __init__(self, count: int) -> None:
        self.count = count

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in MODULES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.count -= 1
            if self.count < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace

    def __enter__(self) -> None:
        sys.settrace(self.trace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        sys.settrace(None)
        return kind is KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 6])
@pytest.mark.parametrize("already", [4, WINDOW, 20])
def test_an_interrupt_before_any_instruction_leaves_a_state_that_goes_on_exactly(
    decoder: Decoder, already: int, chunk: int
) -> None:
    ids = random_ids(40)
    rest = ids[already + chunk :]
    whole = fed(decoder, ids[:already])
    decoder.forward(whole, ids[already : already + chunk])
    expected = continuation(decoder, whole.copy(), rest)
    positions = set()
    fed(decoder, ids)  # opens the recurrent graph
    for count in range(0, 100_000, 7):  # all of them take 20 seconds
        state = fed(decoder, ids[:already])
        interrupted = True
        with InterruptAt(count):
            decoder.forward(state, ids[already : already + chunk])
            interrupted = False
        positions.add(state.position)
        if state.position < already + chunk:
            decoder.forward(state, ids[state.position : already + chunk])
        np.testing.assert_array_equal(continuation(decoder, state, rest), expected)
        np.testing.assert_array_equal(state.seen_tokens(), np.unique(ids[: already + chunk + 5]))
        if not interrupted:
            break
    assert positions >= {already, already + chunk}


# Memory of its tokens


def test_seen_tokens_are_those_fed_and_a_truncated_one_is_forgotten(decoder: Decoder) -> None:
    state = fed(decoder, np.array([3, 1, 3, 5]))
    assert state.seen_tokens().tolist() == [1, 3, 5]
    state.truncate(2)
    assert state.seen_tokens().tolist() == [1, 3]
    decoder.forward(state, random_ids(30) % 2 + 10)
    assert state.seen_tokens().tolist() == [1, 3, 10, 11]


def test_copy_copy_shares_nothing(decoder: Decoder) -> None:
    state = fed(decoder, random_ids(4))
    before, branch = state.cache.copy(), copy.copy(state)
    decoder.forward(branch, np.array([7]))
    branch.metadata["of"] = "the branch"
    assert (state.position, branch.position, state.metadata) == (4, 5, {})
    np.testing.assert_array_equal(state.cache, before)


@pytest.mark.parametrize("position", [-1, 5, 99])
def test_a_state_cannot_go_back_to_a_place_it_was_never_at(decoder: Decoder, position: int) -> None:
    state = fed(decoder, random_ids(4))
    with pytest.raises(DogeError, match=rf"cannot go back to position {position}: the state is at 4"):
        state.truncate(position)
    assert state.position == 4


def test_an_unfed_token_is_forgotten_when_the_position_changes(decoder: Decoder) -> None:
    state = fed(decoder, random_ids(4))
    state.unfed_token = 7
    assert state.copy().unfed_token == state.unfed_token == 7
    decoder.forward(state, np.array([7]))
    assert state.unfed_token is None
    state.unfed_token = 7
    state.truncate(state.position)
    assert state.unfed_token is None


def test_nbytes_counts_what_a_full_state_holds_and_never_changes(decoder: Decoder) -> None:
    state = decoder.new_state()
    size = state.nbytes
    decoder.forward(state, random_ids(50))
    kept = sum(array.nbytes for array in state.full_window().keys)
    assert state.nbytes == size == state.cache.nbytes + kept + 8 * VOCAB_SIZE


# Saved


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("form", FORMS)
def test_a_loaded_state_goes_on_bit_by_bit(form: str, length: int, tmp_path: Path) -> None:
    model = tiny_model(**FORMS[form], keep_window_size=WINDOW)
    decoder, ids = exported(model, tmp_path), random_ids(60)
    state = fed(decoder, ids[:length])
    state.save(tmp_path / "state")
    for _ in range(2):  # a loaded state can be saved again
        loaded = decoder.load_state(tmp_path / "state")
        assert loaded.position == length
        loaded.save(tmp_path / "state", overwrite=True)
    branch = loaded.copy()
    expected = continuation(decoder, state, ids[length:])
    np.testing.assert_array_equal(continuation(decoder, loaded, ids[length:]), expected)
    np.testing.assert_array_equal(continuation(decoder, branch, ids[length:]), expected)
    np.testing.assert_array_equal(loaded.seen_tokens(), state.seen_tokens())


def test_a_state_whose_cache_was_just_made_for_a_full_window_is_saved_as_such(decoder: Decoder, tmp_path: Path) -> None:
    ids = random_ids(20)
    state = fed(decoder, ids[:WINDOW])
    state.full_window()
    state.save(tmp_path / "state")
    loaded = decoder.load_state(tmp_path / "state")
    expected = continuation(decoder, state, ids[WINDOW:])
    np.testing.assert_array_equal(continuation(decoder, loaded, ids[WINDOW:]), expected)


def test_the_empty_state_can_be_saved(decoder: Decoder, tmp_path: Path) -> None:
    decoder.new_state().save(tmp_path / "state")
    assert decoder.load_state(tmp_path / "state").position == 0


def test_metadata_and_the_unfed_token_travel_along(decoder: Decoder, tmp_path: Path) -> None:
    state = fed(decoder, random_ids(5))
    state.unfed_token, state.metadata["talk"] = 9, "Grüße\n\udcff"
    state.save(tmp_path / "state")
    loaded = decoder.load_state(tmp_path / "state")
    assert (loaded.unfed_token, loaded.metadata) == (9, {"talk": "Grüße\n\udcff"})


def test_a_file_is_as_long_as_the_stream_but_never_longer_than_the_window(decoder: Decoder, tmp_path: Path) -> None:
    for length in (0, 1, WINDOW, 20, 60):
        fed(decoder, random_ids(length) if length else random_ids(1)).save(tmp_path / str(length))
    sizes = [(tmp_path / str(length)).stat().st_size for length in (1, WINDOW, 20, 60)]
    row = 2 * 2 * 2 * decoder.description.channels * 4  # layers, key and value, heads, float32
    assert sizes[1] - sizes[0] == pytest.approx(7 * row, abs=7 * 16 + 64)
    assert sizes[3] - sizes[2] <= VOCAB_SIZE * 16 + 64


def test_a_file_has_the_rights_of_any_new_file_and_nothing_is_left_beside_it(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    decoder.new_state().save(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "state"]


def test_an_existing_file_is_replaced_only_when_asked_to(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("precious")
    with pytest.raises(StateError, match="exists already; give another name"):
        decoder.new_state().save(path)
    assert path.read_text() == "precious"
    decoder.new_state().save(path, overwrite=True)
    assert decoder.load_state(path).position == 0


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.write_text("precious")

    def disk_full(tensors: object, name: str, metadata: object) -> Never:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", disk_full)
    with pytest.raises(StateError, match="cannot be written: No space left"):
        decoder.new_state().save(path, overwrite=True)
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["nowhere/state", ".", "a\0b", "x" * 300, "x" * 255 + "/state"])
def test_a_place_that_cannot_be_written_is_one_sentence(decoder: Decoder, tmp_path: Path, name: str) -> None:
    with pytest.raises(StateError, match=r"cannot be written|exists already"):
        decoder.new_state().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_metadata_that_is_no_text_is_refused_before_it_is_lost(decoder: Decoder, tmp_path: Path) -> None:
    state = decoder.new_state()
    state.metadata["count"] = 3  # type: ignore[assignment]  # the mistake
    with pytest.raises(StateError, match="strings for names and values"):
        state.save(tmp_path / "state")


# Refusals


@pytest.fixture(scope="module", params=[*LENGTHS.values()], ids=[*LENGTHS])
def saved(request: pytest.FixtureRequest, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "state"
    fed(decoder, random_ids(request.param)).save(path)
    return path


def test_a_truncated_or_altered_file_is_refused(decoder: Decoder, saved: Path, tmp_path: Path) -> None:
    content, path = saved.read_bytes(), tmp_path / "state"
    damaged = [content[: len(content) * i // 9] for i in range(9)]
    damaged += [content[:-1], content + b"x", b"", b"text", bytes(len(content))]
    for offset in np.linspace(0, len(content) - 1, 60).astype(int):
        flipped = bytearray(content)
        flipped[offset] ^= 4
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(StateError) as error:
            decoder.load_state(path)
        assert str(path) in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_a_state_of_another_model_is_refused(decoder: Decoder, saved: Path, tmp_path: Path, weights: str) -> None:
    other = exported(tiny_model(seed=1, **FORMS["small-doge"], keep_window_size=WINDOW), tmp_path, weights)
    with pytest.raises(StateError, match=r"state of another model.*SHA-256"):
        other.load_state(saved)
    with pytest.raises(StateError, match="belongs to another model"):
        other.forward(decoder.load_state(saved), np.array([1]))


def test_a_state_of_the_same_weights_with_another_window_is_refused(
    decoder: Decoder, saved: Path, tmp_path: Path
) -> None:
    other = exported(tiny_model(**FORMS["small-doge"], keep_window_size=9), tmp_path)
    assert other.description.weights_sha256 == decoder.description.weights_sha256
    with pytest.raises(StateError, match="a window of 8 tokens, but this model's has 9"):
        other.load_state(saved)


@pytest.mark.parametrize("content", [None, "folder", {"x": np.zeros(3)}])
def test_a_file_that_is_missing_or_foreign_is_refused(decoder: Decoder, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "state"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        save_file(content, path)
    with pytest.raises(StateError, match=r"there is no file|not a state file"):
        decoder.load_state(path)


def forged(path: Path, saved: Path, header: Any = (), **tensors: NDArray[Any] | None) -> None:
    """A file with other content and the right checksum; a tensor of None is left out."""
    with safe_open(saved, framework="numpy") as file:
        fields = json.loads(file.metadata()["doge_export.state"])
    arrays = {name: array for name, array in (load_file(saved) | tensors).items() if array is not None}
    text = header if isinstance(header, str) else json.dumps(fields | dict(header))
    save_file(arrays, path, metadata={"doge_export.state": text, "doge_export.sha256": checksum(text, arrays)})


@pytest.mark.parametrize(
    "header",
    [
        {"format_version": 2}, {"format_version": None}, {"position": -1}, {"position": 4}, {"position": 2**40},
        {"position": 30.0}, {"position": float("nan")}, {"position": True}, {"unfed_token": VOCAB_SIZE},
        {"unfed_token": "a"}, {"metadata": {"a": 1}}, {"metadata": []}, {"more": 1}, {"weights_sha256": None},
        {"keep_window_size": "8"}, "[]", "{", "[" * 10_000,
    ],
)  # fmt: skip
def test_an_impossible_header_is_refused(decoder: Decoder, saved: Path, tmp_path: Path, header: Any) -> None:
    forged(tmp_path / "state", saved, header)
    with pytest.raises(StateError, match="state"):
        decoder.load_state(tmp_path / "state")


def test_impossible_tensors_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    saved, path = tmp_path / "saved", tmp_path / "state"
    fed(decoder, random_ids(30)).save(saved)
    good = load_file(saved)

    def altered(name: str, value: float, index: tuple[int, ...] = (0, 0, 0)) -> dict[str, NDArray[Any] | None]:
        array = good[name].copy()
        array[index[: array.ndim]] = value
        return {name: array}

    dt = decoder.description.head_dim
    cases: list[dict[str, Any]] = [altered("cache", np.nan, (1, 1, 0, 0, 0)), altered("cache", -1.0, (0, 0, 0, 0, dt))]
    cases += [altered("key_positions", value) for value in (-1, 30, good["key_positions"][0, 0, 1])]
    cases += [altered("seen_tokens", value) for value in (-1, VOCAB_SIZE, good["seen_tokens"][1])]
    cases += [altered("first_positions", value) for value in (-1, 30, good["first_positions"][1])]
    cases += [{name: None} for name in good] + [{name: array.astype(np.float64)} for name, array in good.items()]
    cases += [{name: array[:-1]} for name, array in good.items()] + [{"more": np.zeros(1)}]
    for case in cases:
        forged(path, saved, **case)
        with pytest.raises(StateError, match="is damaged"):
            decoder.load_state(path)
    forged(path, saved)
    assert decoder.load_state(path).position == 30


def test_something_that_is_no_state_is_refused(decoder: Decoder) -> None:
    with pytest.raises(OptionError, match=r"state is 'x'; it must be one that prefill, copy\(\) or load_state"):
        decoder.check_state("x")  # type: ignore[arg-type]  # the mistake
