"""doge-chat in a real terminal: a program on a pseudo terminal, with the keys that a user presses."""

from __future__ import annotations

import os
import pty
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PASTE, END_OF_PASTE = "\x1b[200~", "\x1b[201~"
PROGRAM = """
import sys, time
from doge_export.commands import chat
from tests.helpers.fakes import model_saying
model = model_saying("Hello!", "Bye.", "Third.")
forward = model.decoder.forward
def slow(*arguments):
    time.sleep(0.05)
    return forward(*arguments)
model.decoder.forward = slow
chat.load = lambda *arguments, **options: model
try:
    chat.main([sys.argv[1]], standalone_mode=False)
finally:
    print("FED", repr(model.tokenizer.decode(model.decoder.fed, skip_special_tokens=False)))
"""


class Terminal:
    """The program, the keys it is sent and the text it shows."""

    def __init__(self, home: Path) -> None:
        self._screen, other = pty.openpty()
        environment = os.environ | {"XDG_STATE_HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home)], stdin=other, stdout=other, stderr=other, env=environment
        )
        os.close(other)
        self.shown = ""
        self.wait_for("leaves.")
        self.wait_for(">")

    def press(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` is shown behind all that was waited for before."""
        start, deadline = len(self.shown), time.monotonic() + 60
        while text not in self.shown[start:]:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._screen], [], [], 0.2)[0]:
                self.shown += os.read(self._screen, 65536).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.mark.slow
def test_pasted_lines_are_one_question(terminal: Terminal) -> None:
    terminal.press(f"{PASTE}first\nsecond{END_OF_PASTE}\r")
    terminal.wait_for("Hello!")
    terminal.wait_for(">")
    terminal.press("\x04")
    terminal.wait_for("FED '<|im_start|>user\\nfirst\\nsecond<|im_end|>")


@pytest.mark.slow
def test_keys_during_an_answer_do_not_show_in_it_and_begin_the_next_message(terminal: Terminal) -> None:
    terminal.press("Hi\r")
    terminal.wait_for("Hel")
    terminal.press("typed early\n")
    terminal.wait_for("Bye.")
    answer = terminal.shown.rpartition("Hi")[2].partition("!")[0]
    assert "typed" not in answer and "Hello" in answer
    terminal.wait_for(">")
    terminal.press("\x04")
    terminal.wait_for("<|im_start|>user\\ntyped early<|im_end|>")


@pytest.mark.slow
def test_messages_of_earlier_sessions_come_back_and_are_private(tmp_path: Path) -> None:
    first = Terminal(tmp_path)
    first.press("A question\r")
    first.wait_for("Hello!")
    first.close()
    assert stat.S_IMODE((tmp_path / "doge-export" / "chat_history").stat().st_mode) == 0o600
    second = Terminal(tmp_path)
    second.press("\x1b[A")
    second.wait_for("A question")
    second.press("\r")
    second.wait_for("Hello!")
    second.close()


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "doge-export").write_text("in the way")
    terminal = Terminal(tmp_path)
    terminal.press("Hi\r")
    terminal.wait_for("Hello!")
    terminal.close()
