from __future__ import annotations

import errno
import io
import json
import shutil
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from doge_export.commands import chat
from doge_export.errors import OptionError
from doge_export.runtime.conversation import Conversation
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from doge_export.runtime.state import State
from doge_export.talk import terminal
from doge_export.talk.printer import AnswerPrinter
from tests.helpers.fakes import ScriptedModel, byte_level_tokenizer, model_saying

ANSWERS = ("Hello!", "Bye.")
Typed = Sequence[str | type[BaseException]]


class Run(Protocol):
    """A call of doge-chat."""

    def __call__(
        self,
        *arguments: str,
        model: ScriptedModel | None = None,
        typed: Typed | None = None,
        stdin: str | bytes | None = None,
    ) -> Result: ...


def read(tokens: list[int]) -> str:
    return byte_level_tokenizer().decode(tokens, skip_special_tokens=False)


def asked(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Calls doge-chat on a scripted model; lines given as `typed` are a terminal's input."""

    def call(
        *arguments: str,
        model: ScriptedModel | None = None,
        typed: Typed | None = None,
        stdin: str | bytes | None = None,
    ) -> Result:
        monkeypatch.setattr(chat, "load", lambda folder, **_: model or model_saying(*ANSWERS))
        if typed is not None:
            lines = iter(typed)

            def read_line(prompt: str) -> str:
                line = next(lines, EOFError)
                if isinstance(line, str):
                    return line
                raise line

            monkeypatch.setattr(chat, "line_reader", lambda: read_line)
            monkeypatch.setattr(chat, "stdin_is_terminal", lambda: True)
        return CliRunner().invoke(chat.main, [str(tmp_path), *arguments], input=stdin)

    return call


def one_line_error(result: Result) -> str:
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: ") and not result.stdout
    return lines[0]


def test_a_prompt_is_answered_once_and_nothing_else_is_on_standard_output(run: Run) -> None:
    result = run("--prompt", "Hi")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello!\n", "")


def test_verbose_says_who_computes(run: Run) -> None:
    result = run("--verbose", "--prompt", "Hi")
    assert "Computed by a table." in result.stderr


def test_piped_input_is_the_prompt(run: Run) -> None:
    model = model_saying(*ANSWERS)
    result = run(model=model, stdin="line one\nline two\n")
    assert (result.exit_code, result.stdout) == (0, "Hello!\n")
    assert read(model.decoder.fed).startswith(asked("line one\nline two"))


@pytest.mark.parametrize(("piped", "whole"), [("a text\n", "a text\n\nWhat is it?"), ("", "What is it?")])
def test_piped_input_stands_before_the_prompt(run: Run, piped: str, whole: str) -> None:
    model = model_saying(*ANSWERS)
    run("--prompt", "What is it?", model=model, stdin=piped)
    assert read(model.decoder.fed).startswith(asked(whole))


def test_json_is_one_object_with_the_fields_of_a_result(run: Run) -> None:
    result = json.loads(run("--prompt", "Hi", "--json").stdout)
    assert (result["text"], result["finish_reason"], result["completion_tokens"]) == ("Hello!", "stop", 7)
    assert {"token_ids", "prompt_tokens", "prefill_tokens_per_s", "decode_tokens_per_s"} < set(result)


REASONED = "<think>Hm.</think>It is 5."


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [([], REASONED), (["--reasoning", "show"], REASONED), (["--reasoning", "hide"], "It is 5.")],
)
def test_a_trace_is_shown_or_hidden(run: Run, arguments: list[str], shown: str) -> None:
    assert run("--prompt", "2+3?", *arguments, model=model_saying(REASONED)).stdout == f"{shown}\n"


def test_a_hidden_trace_stands_in_json_apart(run: Run) -> None:
    arguments = ("--prompt", "2+3?", "--json", "--reasoning", "cut")
    result = json.loads(run(*arguments, model=model_saying(REASONED)).stdout)
    assert (result["text"], result["reasoning"]) == ("It is 5.", "Hm.")


def test_a_trace_that_is_cut_is_not_fed_again(run: Run) -> None:
    model = model_saying(REASONED, "Bye.")
    run("--reasoning", "cut", model=model, typed=["2+3?", "Bye!"])
    assert f"{REASONED}It is 5.<|im_end|>\n{asked('Bye!')}" in read(model.decoder.fed)


def test_a_conversation_in_json_is_one_object_per_answer(run: Run) -> None:
    result = run("--json", typed=["Hi", "/help", "And now?"])
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["Hello!", "Bye."]


def test_a_conversation_ends_with_its_input_or_by_exit(run: Run) -> None:
    assert run(typed=["Hi", "", "And now?"]).stdout == "Hello!\nBye.\n"
    assert run(typed=["Hi", "/exit", "And now?"]).stdout == "Hello!\n"


def test_options_reach_the_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    def noting(self: Model, **overrides: object) -> GenerationOptions:
        seen.append(overrides)
        return GenerationOptions()

    monkeypatch.setattr(Model, "options", noting)
    run("--prompt", "Hi", "--top-p", "0.5", "--top-k", "3", "--seed", "1", "--max-new-tokens", "7", "--greedy")
    assert {name: value for name, value in seen[0].items() if value is not None} == {
        "temperature": 0.0, "top_p": 0.5, "top_k": 3, "seed": 1, "max_new_tokens": 7,
    }  # fmt: skip


def test_a_cut_answer_says_so_beside_it(run: Run) -> None:
    result = run("--prompt", "Hi", "--max-new-tokens", "3")
    assert result.stdout == "Hel\n"
    assert "cut after 3 tokens; --max-new-tokens" in result.stderr


def test_a_conversation_goes_on_beyond_the_window(run: Run) -> None:
    result = run(typed=["Hi", "And now?"] * 5, model=model_saying(*ANSWERS, window=30))
    assert result.exit_code == 0 and "Error" not in result.stderr
    assert result.stdout == "Hello!\nBye.\n" * 5


def test_undo_takes_the_last_turn_back(run: Run) -> None:
    typed = ["Hi", "What\nelse", "/undo", "And now?", "/undo", "/undo", "/undo"]
    result = run(typed=typed, model=model_saying("Hello!", "Wrong.", "Bye."))
    took = [line for line in result.stderr.splitlines() if line.startswith("Took back")]
    assert took == ["Took back: What else", "Took back: And now?", "Took back: Hi"]
    assert "Error: there is no turn to take back; ask something first" in result.stderr.splitlines()


def test_a_saved_state_is_resumed_without_feeding_anything_again(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a talk.state"
    run("--system", "Be brief.", typed=["Hi", f"/save-state {path}"])
    model = model_saying("Bye.")
    result = run("--resume", str(path), typed=["And now?", "/undo", "/undo"], model=model)
    assert (result.exit_code, result.stdout) == (0, "Bye.\n")
    assert "turns so far: 1" in result.stderr and "Took back: Hi" in result.stderr
    assert read(model.decoder.fed).startswith("<|im_end|>\n<|im_start|>user\nAnd now?")


def test_a_saved_state_answers_a_single_prompt_too(run: Run, tmp_path: Path) -> None:
    run(typed=["Hi", f"/save-state {tmp_path / 'talk'}"])
    result = run("--resume", str(tmp_path / "talk"), "--prompt", "And now?", model=model_saying("Bye."))
    assert result.stdout == "Bye.\n"


def test_resume_brings_its_own_system_message(run: Run, tmp_path: Path) -> None:
    run(typed=["Hi", f"/save-state {tmp_path / 'talk'}"])
    result = run("--resume", str(tmp_path / "talk"), "--system", "Be brief.", "--prompt", "Hi")
    assert result.exit_code == 2 and "leave --system away" in one_line_error(result)


def test_a_state_file_that_is_none_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "talk").write_text("no state")
    model_saying("Bye.").prefill("Hi").save(tmp_path / "state")
    for name, reason in (("talk", "is not a state file"), ("state", "a state without a conversation")):
        result = run("--resume", str(tmp_path / name), "--prompt", "Hi")
        assert result.exit_code == 1 and reason in one_line_error(result)
    missing = run("--resume", str(tmp_path / "nothing"), "--prompt", "Hi")
    assert missing.exit_code == 2 and "does not exist" in one_line_error(missing)


def test_reset_forgets_the_conversation(run: Run) -> None:
    model = model_saying(*ANSWERS)
    run(typed=["Hi", "/reset", "And now?"], model=model)
    assert read(model.decoder.fed).endswith(asked("And now?") + "Bye.")


def test_save_state_never_writes_over_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("precious")
    result = run(typed=["Hi", f"/save-state {tmp_path / 'kept'}"])
    assert f"Error: {tmp_path / 'kept'} exists already; give another name" in result.stderr.splitlines()
    assert (tmp_path / "kept").read_text() == "precious"


def test_save_writes_the_transcript_and_never_over_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a talk.json"
    result = run("--system", "Be brief.", typed=["Hi", f"/save {path}", "And now?", f"/save {path}"])
    contents = [message["content"] for message in json.loads(path.read_text())["messages"]]
    assert contents == ["Be brief.", "Hi", "Hello!"]
    assert f"Error: {path} exists already; give another name" in result.stderr.splitlines()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/save", "needs the name of a file"),
        ("/save-state", "/save-state needs the name of a file"),
        ("/undo", "no turn to take back"),
        ("/save ~nobodyatall/file", "home"),
        ("/save /nowhere/at/all", "cannot be written (No such file or directory); give another"),
        ("/rest", "there is no command /rest; /help lists"),
    ],
)
def test_a_command_that_fails_is_explained_in_one_line_and_the_conversation_goes_on(
    run: Run, command: str, reason: str
) -> None:
    result = run(typed=[command, "Hi"])
    assert result.stdout == "Hello!\n"
    assert sum("Error: " in line and reason in line for line in result.stderr.splitlines()) == 1


def test_two_slashes_begin_a_message_with_one(run: Run) -> None:
    model = model_saying(*ANSWERS)
    run(typed=["//etc/hosts?"], model=model)
    assert read(model.decoder.fed).startswith(asked("/etc/hosts?"))


def test_control_c_at_the_prompt_gives_a_hint(run: Run) -> None:
    result = run(typed=[KeyboardInterrupt, "Hi"])
    assert "Ctrl-D or /exit leaves" in result.stderr and result.stdout == "Hello!\n"


def interrupted_model(*at_calls: int) -> ScriptedModel:
    """A scripted model that is sent Ctrl-C during the given calls of its decoder."""
    model = model_saying(*ANSWERS)
    forward, count = model.decoder.forward, 0

    def forward_and_interrupt(
        state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        nonlocal count
        count += 1
        if count in at_calls:
            signal.raise_signal(signal.SIGINT)
        return forward(state, token_ids, logits_to_keep)

    model.decoder.forward = forward_and_interrupt  # type: ignore[method-assign]  # the place of the Ctrl-C
    return model


def test_control_c_stops_the_answer_and_keeps_the_conversation(run: Run) -> None:
    before = signal.getsignal(signal.SIGINT)
    model = interrupted_model(3)
    result = run(typed=["Hi", "And now?"], model=model)
    assert result.exit_code == 0 and result.stdout.startswith("Hel\n")
    assert read(model.decoder.fed).count("Hi") == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_control_c_does_not_wait_and_nothing_is_fed_again(run: Run) -> None:
    model = interrupted_model(3)
    forward = model.decoder.forward

    def impatient(
        state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        logits = forward(state, token_ids, logits_to_keep)
        if model.decoder.cursor == 3:
            signal.raise_signal(signal.SIGINT)
        return logits

    model.decoder.forward = impatient  # type: ignore[method-assign]  # the place of the Ctrl-C
    result = run(typed=["Hi", "And now?"], model=model)
    assert result.exit_code == 0 and result.stdout.startswith("He\n")
    assert read(model.decoder.fed).count("<|im_start|>user\nHi") == 1


def test_control_c_during_a_single_prompt_ends_the_program_with_its_usual_code(run: Run) -> None:
    assert run("--prompt", "Hi", model=interrupted_model(3)).exit_code == 130


def test_a_model_without_chat_template_continues_and_says_so_once(run: Run) -> None:
    result = run(typed=["Once", "there"], model=model_saying(*ANSWERS, template=None))
    assert result.stdout == "Hello!\nBye.\n"
    assert result.stderr.count("no chat template") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--temperature", "-1"], "temperature is -1.0; it must be"),
        (["--top-p", "2"], "top_p is 2.0"),
        (["--greedy", "--temperature", "0.5"], "contradict each other"),
        (["--max-new-tokens", "many"], "'many' is not a valid integer"),
        (["--no-such-option"], "No such option"),
        (["--prompt", ""], "message is empty"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Run, arguments: list[str], reason: str) -> None:
    result = run("--prompt", "Hi", *arguments)
    assert result.exit_code == 2 and reason in one_line_error(result)


@pytest.mark.parametrize("stdin", ["", " \n", b"\xff\xfe"])
def test_piped_input_that_is_no_text_is_one_line_and_exit_code_2(run: Run, stdin: str | bytes) -> None:
    result = run(stdin=stdin)
    assert result.exit_code == 2 and "standard input is" in one_line_error(result)


def test_a_missing_folder_is_exit_code_2_and_one_that_is_no_export_is_1(tmp_path: Path) -> None:
    missing = CliRunner().invoke(chat.main, [str(tmp_path / "nowhere"), "--prompt", "Hi"])
    assert missing.exit_code == 2 and "does not exist" in one_line_error(missing)
    empty = CliRunner().invoke(chat.main, [str(tmp_path), "--prompt", "Hi"])
    assert empty.exit_code == 1 and one_line_error(empty)


def test_a_hub_id_that_cannot_be_had_is_one_line() -> None:
    result = CliRunner().invoke(chat.main, ["doge/elsewhere", "--prompt", "Hi"])
    assert result.exit_code == 1 and "is not in the local cache and the hub is not asked" in one_line_error(result)


def test_help_names_every_option_and_where_defaults_come_from() -> None:
    text = CliRunner().invoke(chat.main, ["--help"]).stdout
    assert all(
        f"--{name.replace('_', '-')}" in text
        for name in vars(GenerationOptions())
        if name not in ("stop", "ignore_eos") and not name.endswith(("_tokens", "_ids", "_bias", "_id"))
    )
    assert "--max-new-tokens" in text and "--min-new-tokens" in text
    assert "generation_config.json" in text


def test_a_terminal_without_unicode_gets_a_question_mark_rather_than_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", out)
    model = model_saying("Gr日e")
    AnswerPrinter(Conversation(model, model.options()), as_json=False).answer("Hi")
    out.flush()
    assert out.buffer.getvalue() == b"Gr?e\n"


# Folders with something odd


def test_named_templates_without_a_default_end_the_program_with_their_names(run: Run) -> None:
    model = model_saying(*ANSWERS)
    model.tokenizer.chat_templates = {"rag": "A", "tool_use": "B"}
    result = run("--prompt", "Hi", model=model)
    assert result.exit_code == 1
    assert "has the chat templates rag and tool_use, but no default; write the one to use" in one_line_error(result)


def test_a_warning_is_one_line_beside_the_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_and_warn(folder: Any, threads: Any, **_: Any) -> Any:
        warnings.warn("a file sets num_beams,\nwhich the runtime does not use", stacklevel=1)
        return model_saying(*ANSWERS)

    monkeypatch.setattr(chat, "load", load_and_warn)
    result = CliRunner().invoke(chat.main, [".", "--prompt", "Hi"])
    assert (result.stdout, result.stderr) == (
        "Hello!\n", "Warning: a file sets num_beams, which the runtime does not use\n",
    )  # fmt: skip


@pytest.mark.parametrize(("encoding", "written"), [("ascii", b"Gr\\u00fc\\u00dfe"), ("utf-8", "Grüße".encode())])
def test_json_on_an_output_without_unicode_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, encoding: Any, written: Any
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    model = model_saying("Grüße")
    AnswerPrinter(Conversation(model, model.options()), as_json=True).answer("Hi")
    out.flush()
    assert b'"text": "' + written + b'"' in out.buffer.getvalue()


def test_log_probabilities_stand_in_the_json_and_are_refused_without_it(run: Run) -> None:
    answer = json.loads(run("--prompt", "Hi", "--json", "--logprobs", "1").stdout)
    assert [token["token_id"] for token in answer["logprobs"]] == answer["token_ids"]
    assert answer["logprobs"][0]["best"][0][0] == answer["token_ids"][0]
    assert "give --json too" in one_line_error(run("--prompt", "Hi", "--logprobs", "1"))


def test_answers_take_the_form_of_a_schema_in_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"enum": [[1], "é"]}', encoding="utf-8")
    assert json.loads(run("--prompt", "Hi", "--json-schema", str(tmp_path / "schema.json")).stdout) in ([1], "é")
    (tmp_path / "yes.lark").write_text('start: "yes"')
    assert run("--prompt", "Hi", "--grammar", str(tmp_path / "yes.lark")).stdout == "yes\n"
    assert run("--prompt", "Hi", "--regex", "no").stdout == "no\n"
    (tmp_path / "schema.json").write_bytes(b"\xff")
    assert "is not UTF-8 text" in one_line_error(run("--prompt", "Hi", "--json-schema", str(tmp_path / "schema.json")))


def test_a_closed_standard_input_is_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert not terminal.stdin_is_terminal()
    assert chat.piped_prompt("Hi") == "Hi"
    with pytest.raises(OptionError, match="standard input is empty"):
        chat.piped_prompt(None)


def test_a_full_disk_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: AnswerPrinter, text: str) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(AnswerPrinter, "answer", answer)
    result = run("--prompt", "Hi")
    assert result.exit_code == 1
    assert one_line_error(result) == "Error: standard output cannot be written: No space left on device"


def test_an_assistant_of_another_tokenizer_ends_in_one_sentence(tmp_path: Path) -> None:
    talks = Path(__file__).parents[2] / "checkpoints" / "doge-20m-10min-int8"
    other = tmp_path / "other"
    shutil.copytree(talks, other)
    tokenizer = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(tokenizer.replace("<|end_header_id|>", "<|fin_header_id|>"), encoding="utf-8")
    done = CliRunner().invoke(chat.main, [str(talks), "--assistant", str(other), "--prompt", "Hello"])
    assert done.exit_code == 2
    assert "other has another tokenizer than" in done.stderr and "give an assistant with the same" in done.stderr
