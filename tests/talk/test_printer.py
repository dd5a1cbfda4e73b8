"""Answers to long prompts: a line about the progress, and Ctrl-C between two chunks."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from doge_export.runtime.conversation import Conversation
from doge_export.runtime.model import Model
from doge_export.talk import printer
from doge_export.talk.printer import AnswerPrinter
from tests.helpers.fakes import model_saying
from tests.helpers.models import exported, random_ids, tiny_model

LONG = "a" * 1000


def see_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal before a user without patience."""
    monkeypatch.setattr(printer, "PATIENCE", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)


def test_a_long_prompt_shows_its_progress_and_takes_it_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    see_at_once(monkeypatch)
    model = model_saying("Hello!")
    model.decoder.cursor = -3  # each of three chunks before the last one moves it
    AnswerPrinter(Conversation(model, model.options()), as_json=False).answer(LONG)
    out, err = capsys.readouterr()
    total = model.count_tokens([{"role": "user", "content": LONG}])
    assert f"Reading the prompt: 256 of {total} tokens" in err and f"768 of {total}" in err
    assert out == "Hello!\n" and err.endswith("\r") and not err.rpartition("\x1b[0m")[2].strip()


def test_a_short_prompt_shows_no_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    see_at_once(monkeypatch)
    model = model_saying("Hello!")
    AnswerPrinter(Conversation(model, model.options()), as_json=False).answer("Hi")
    assert "Reading" not in capsys.readouterr().err


def test_control_c_in_a_long_prompt_does_not_wait_for_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_saying("Hello!", "Bye.")
    conversation, forward = Conversation(model, model.options()), model.decoder.forward

    def interrupting(*arguments: Any) -> Any:
        if not model.decoder.fed:
            signal.raise_signal(signal.SIGINT)
        return forward(*arguments)

    monkeypatch.setattr(model.decoder, "forward", interrupting)
    assert not AnswerPrinter(conversation, as_json=False).answer(LONG)
    assert len(model.decoder.fed) == 256 and "(stopped)" in capsys.readouterr().err
    assert AnswerPrinter(conversation, as_json=False).answer("Hi") and conversation.turns == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"prompt_lookup_num_tokens": 5}, {"repetition_penalty": 1.3}], ids=str)
def test_a_reported_prompt_gives_the_very_same_answer(options: dict[str, Any], tmp_path: Path) -> None:
    model, told = Model(exported(tiny_model(keep_window_size=600), tmp_path, "int8")), []
    for length in (513, 257, 1000):
        ids = random_ids(length, length).tolist()
        wanted = model.options(max_new_tokens=20, **options)
        reported = model.continue_state(
            model.new_state(), ids, wanted, on_prompt=lambda fed, total: told.append((fed, total))
        ).read_all()
        assert reported.token_ids == model.generate(ids, max_new_tokens=20, **options).token_ids
        assert reported.prompt_tokens == length
    assert told[:2] == [(256, 513), (512, 513)] and (256, 257) in told
