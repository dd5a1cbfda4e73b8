"""What is typed into a conversation: commands, blocks, and what they do to the model's next answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from doge_export.errors import OptionError, StateError
from doge_export.runtime.conversation import Conversation
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from doge_export.talk.printer import AnswerPrinter
from doge_export.talk.settings import changed_options
from doge_export.talk.shell import HELP, Shell
from doge_export.talk.terminal import read_message
from tests.helpers.fakes import BigramDecoder, ScriptedModel, byte_level_tokenizer, model_saying, random_table

ANSWERS = ("Hello!", "Bye.", "Third.")


def talk(model: Model, typed: Sequence[str], system: str | None = None, **options: Any) -> Conversation:
    """A conversation in which these lines were typed."""
    conversation, lines = Conversation(model, model.options(**options), system), iter(typed)

    def read_line(prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    Shell(conversation, AnswerPrinter(conversation, as_json=False), read_line).run()
    return conversation


def said(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages]


def fed(model: ScriptedModel) -> str:
    return model.tokenizer.decode(model.decoder.fed, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([" one line "], "one line"),
        (["pasted\nlines "], "pasted\nlines"),
        (['"""', "  two", "", "lines", '"""'], "  two\n\nlines"),
        (['"""two', 'lines""" '], "two\nlines"),
        (['"""one"""'], "one"),
        (['"""', "/undo", '"""'], "//undo"),
        (["/etc/hosts\nis what?"], "//etc/hosts\nis what?"),
        (["/undo"], "/undo"),
    ],
)
def test_a_message_is_a_line_pasted_lines_or_a_block(lines: list[str], message: str) -> None:
    typed = iter(lines)
    assert read_message(lambda prompt: next(typed)) == message
    assert next(typed, None) is None


def test_a_block_is_asked_even_where_it_begins_with_a_slash() -> None:
    conversation = talk(model_saying(*ANSWERS), ['"""', "/etc/hosts", "is what?", '"""'])
    assert said(conversation) == ["/etc/hosts\nis what?", "Hello!"]


def test_regenerate_answers_the_last_question_anew(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = talk(model_saying(*ANSWERS), ["Hi", "/regenerate"])
    assert said(conversation) == ["Hi", "Bye."]
    assert "The answer will be the same" in capsys.readouterr().err


def test_regenerate_with_chance_draws_another_answer(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model(BigramDecoder(random_table(259), 4096), byte_level_tokenizer())
    first = said(talk(model, ["Hi"], temperature=1.0))
    assert said(talk(model, ["Hi", "/regenerate"], temperature=1.0))[1] != first[1]
    assert "the same" not in capsys.readouterr().err


def test_system_starts_anew_with_another_system_message(capsys: pytest.CaptureFixture[str]) -> None:
    model = model_saying(*ANSWERS)
    conversation = talk(model, ["Hi", "/system", "/system Be brief.", "/system", "And now?"])
    assert said(conversation) == ["Be brief.", "And now?", "Bye."]
    assert fed(model).rpartition("system\n")[2].startswith("Be brief.<|im_end|>\n<|im_start|>user\nAnd now?")
    shown = capsys.readouterr().err.splitlines()
    assert "There is no system message." in shown and "Be brief." in shown


def test_a_model_without_template_takes_no_system_message(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = talk(model_saying(*ANSWERS, template=None), ["Hi", "/system Be brief.", "there"])
    assert "leave the system message away" in capsys.readouterr().err and conversation.turns == 2


def test_set_changes_an_option_of_the_next_answer(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = talk(model_saying(*ANSWERS), ["/set max-new-tokens 3", "Hi", "/set"])
    assert said(conversation) == ["Hi", "Hel"]
    assert "max_new_tokens            3" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", "0.5", 0.5),
        ("seed", "7", 7),
        ("seed", "none", None),
        ("logprobs", "none", None),
        ("regex", "12", "12"),
        ("json-schema", '{"type": "null"}', '{"type": "null"}'),
        ("stop", "END", ("END",)),
        ("stop", "12", ("12",)),
        ("stop", '["a", "\\n"]', ("a", "\n")),
        ("ignore-eos", "true", True),
        ("bad_words_ids", "[[1, 2]]", ((1, 2),)),
    ],
)
def test_options_are_read_as_in_json(name: str, value: str, expected: object) -> None:
    options = changed_options(GenerationOptions(seed=3), name, value)
    assert vars(options)[name.replace("-", "_")] == expected


@pytest.mark.parametrize(("name", "value"), [("temperature", "hot"), ("top_p", "2"), ("warmth", "1"), ("stop", '""')])
def test_an_option_that_is_not_allowed_is_refused(name: str, value: str) -> None:
    with pytest.raises(OptionError, match=f"{name}"):
        changed_options(GenerationOptions(), name, value)


def test_stop_adds_texts_and_takes_them_away() -> None:
    model = model_saying(*ANSWERS)
    conversation = talk(model, ["/stop lo", '/stop "\\n"', "Hi"])
    assert conversation.options.stop == ("lo", "\n") and said(conversation) == ["Hi", "Hel"]
    assert talk(model, ["/stop lo", "/stop"]).options.stop == ()


def test_help_lists_every_command() -> None:
    conversation = Conversation(model_saying("x"), GenerationOptions())
    shell = Shell(conversation, AnswerPrinter(conversation, as_json=False), input)
    assert all(f"\n{command}" in f"\n{HELP}" for command in [*shell._commands, "/exit"])


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("template", [{}, {"template": None}], ids=["chat", "text"])
def test_a_transcript_goes_on_as_the_conversation_itself(system: Any, template: Any, tmp_path: Path) -> None:
    system = None if template else system
    model, path = model_saying("Hello!", "Bye.", "Third.", **template), tmp_path / "talk.json"
    talk(model, ["Hi", "And now?", f"/save {path}"], system)
    again = model_saying("Third.", **template)
    again.decoder.cursor = -len(template)  # a text's past is fed by itself, and moves it
    conversation = Conversation.resume(again, again.options(), path)
    assert conversation.turns == 2 and "".join(conversation.ask("So?")) == "Third."
    whole = model_saying("Hello!", "Bye.", "Third.", **template)
    talk(whole, ["Hi", "And now?", "So?"], system)
    assert fed(again) == fed(whole)
    assert [conversation.undo() for _ in range(3)] == ["So?", "And now?", "Hi"]


def test_a_file_that_is_no_transcript_is_refused(tmp_path: Path) -> None:
    model = model_saying("Hello!")
    user, wrong = {"role": "user", "content": "Hi"}, [{}, {"messages": 1}, {"messages": [{}]}]
    cases = [*wrong, {"messages": [user, user]}, {"messages": [user]}]
    for case in cases:
        (tmp_path / "talk.json").write_text(json.dumps(case))
        with pytest.raises(StateError, match=r"talk.json (is not a conversation|holds other messages)"):
            Conversation.resume(model, model.options(), tmp_path / "talk.json")
    (tmp_path / "talk.json").write_text("{")
    with pytest.raises(StateError, match="is not a conversation that /save wrote"):
        Conversation.resume(model, model.options(), tmp_path / "talk.json")


def test_a_list_of_messages_alone_goes_on_too(tmp_path: Path) -> None:
    model, path = model_saying("Hello!", "Bye."), tmp_path / "messages.json"
    messages = [{"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello!"))]
    path.write_text(json.dumps(messages))
    conversation = Conversation.resume(model, model.options(), path)
    assert (conversation.turns, conversation.messages) == (1, messages)
