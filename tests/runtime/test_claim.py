"""One state, one user at a time: a second thread, and a second answer, are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doge_export.errors import OptionError, StateError
from doge_export.runtime.batch_stream import BatchStream
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.model import Model
from doge_export.runtime.state import State
from doge_export.runtime.streaming import TextStream
from tests.helpers.fakes import byte_level_tokenizer
from tests.helpers.models import exported, random_ids, tiny_model

USES: dict[str, Callable[[Model, State, Path], object]] = {
    "forward": lambda model, state, path: model.decoder.forward(state, random_ids(3)),
    "generate": lambda model, state, path: model.generate([1, 2], state=state, max_new_tokens=2),
    "prefill": lambda model, state, path: model.prefill([1, 2], state),
    "check_draft": lambda model, state, path: model.decoder.check_draft(state, random_ids(2)),
    "copy": lambda model, state, path: state.copy(),
    "truncate": lambda model, state, path: state.truncate(1),
    "save": lambda model, state, path: state.save(path / "state"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(exported(tiny_model(), tmp_path_factory.mktemp("export")))


def in_another_thread(run: Callable[[], object]) -> list[BaseException]:
    """Errors of a call that a thread of its own makes."""
    errors: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except StateError as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return errors


@pytest.mark.parametrize("use", USES)
def test_a_second_thread_is_refused_while_the_first_is_inside(use: str, model: Model, tmp_path: Path) -> None:
    state = model.prefill([1, 2, 3])
    with state.claim:
        (error,) = in_another_thread(lambda: USES[use](model, state, tmp_path))
    assert "in use by another thread" in str(error)
    assert state.position == 3
    assert in_another_thread(lambda: USES[use](model, state, tmp_path)) == []


def test_two_threads_that_feed_one_state_never_corrupt_it(model: Model) -> None:
    state, refused, fed = model.new_state(), [], []
    ids = np.array([5])

    def feed() -> None:
        for _ in range(60):
            try:
                model.decoder.forward(state, ids)
                fed.append(1)
            except StateError as error:
                refused.append(error)

    threads = [threading.Thread(target=feed) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fed) + len(refused) == 120
    assert state.position == len(fed)
    whole = model.new_state()
    for _ in range(len(fed) + 1):
        expected = model.decoder.forward(whole, ids)
    np.testing.assert_array_equal(model.decoder.forward(state, ids), expected)


def test_an_answer_whose_state_another_one_moved_ends_in_one_sentence(model: Model) -> None:
    state = model.prefill([1, 2, 3])
    tokens = model.continue_state(state, [4], model.options(max_new_tokens=5, ignore_eos=True))
    tokens.push(next(tokens._tokens), 0.0)
    model.generate([7], state=state, max_new_tokens=2, ignore_eos=True)
    with pytest.raises(StateError, match=r"moved from position 4 to 7 .* copy\(\)"):
        next(tokens._tokens)


def test_the_thread_that_has_a_state_may_use_it_again_after_an_error(model: Model) -> None:
    state = model.new_state()
    with pytest.raises(ZeroDivisionError), state.claim:
        raise ZeroDivisionError
    assert in_another_thread(lambda: model.prefill([1], state)) == []
    assert isinstance(model.decoder, Decoder)


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "use"), [([1, 2], next), ([1, 2], TextStream.close), ([[1, 2]], next)])
def test_a_stream_has_one_reader_at_a_time(prompt: Any, use: Any, tmp_path: Path) -> None:
    model = Model(exported(tiny_model(vocab_size=259), tmp_path), byte_level_tokenizer())
    errors: list[BaseException] = []

    def forward(*arguments: object, **keywords: object) -> object:
        errors.extend(in_another_thread(lambda: use(stream)))
        return inner(*arguments, **keywords)  # type: ignore[arg-type]  # those of Decoder.forward, as they came

    inner, model.decoder.forward = model.decoder.forward, forward  # type: ignore[method-assign, assignment]  # a step that is read beside
    stream: TextStream | BatchStream = model.stream(prompt, max_new_tokens=1)
    stream.read_all()
    assert [str(error) for error in errors] == [
        "the stream is read by another thread; give each thread a stream of its own"
    ]


def test_a_forced_end_that_is_no_token_is_refused(model: Model) -> None:
    with pytest.raises(OptionError, match=r"^forced_eos_token_id is \[9999\]; its ids must be from 0 to \d+$"):
        model.generate([1, 2], forced_eos_token_id=9999)
