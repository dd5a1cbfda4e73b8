"""Traces of reasoning in chats: hidden from text and pieces, and cut out of the conversation where wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doge_export.errors import OptionError
from doge_export.runtime.conversation import Conversation
from doge_export.runtime.reasoning import ReasoningMode
from doge_export.runtime.transcript import write_transcript
from tests.helpers.fakes import CHATML, ScriptedDecoder, ScriptedModel, byte_level_tokenizer, model_saying

TOKENIZER = byte_level_tokenizer()
REASONED = "<think>\nHm, 2+3.\n</think>\n\nIt is 5."
QUESTION = [{"role": "user", "content": "2+3?"}]
FED = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"


def read(tokens: list[int]) -> str:
    return TOKENIZER.decode(tokens, skip_special_tokens=False)


def talk(mode: ReasoningMode, *answers: str) -> tuple[ScriptedModel, Conversation]:
    model = model_saying(*answers)
    return model, Conversation(model, model.options(), reasoning=mode)


@pytest.mark.parametrize("mode", ["hide", "cut"])
def test_a_hidden_trace_is_apart_from_the_text(mode: ReasoningMode) -> None:
    result = model_saying(REASONED).chat(QUESTION, reasoning=mode)
    assert (result.text, result.reasoning) == ("It is 5.", "Hm, 2+3.")
    assert read(result.token_ids) == REASONED + "<|im_end|>"


@pytest.mark.parametrize("mode", [None, "show"])
def test_a_trace_is_text_unless_it_is_hidden(mode: ReasoningMode | None) -> None:
    result = model_saying(REASONED).chat(QUESTION, reasoning=mode)
    assert (result.text, result.reasoning) == (REASONED, None)


def test_a_stream_goes_on_behind_the_trace() -> None:
    stream = model_saying(REASONED).chat(QUESTION, reasoning="hide", stream=True)
    pieces = list(stream)
    assert "".join(pieces) == "It is 5."
    assert len(pieces) > 1
    assert stream.result.reasoning == "Hm, 2+3."


def test_a_stream_that_collects_nothing_keeps_no_trace() -> None:
    stream = model_saying(REASONED).chat(QUESTION, reasoning="hide", stream=True)
    stream.collects = False
    assert "".join(stream) == "It is 5."
    assert (stream.result.reasoning, stream.whole_text) == (None, "")


def test_each_of_several_conversations_has_its_trace() -> None:
    model = model_saying(REASONED)
    results = model.chat([QUESTION], reasoning="hide")
    assert [(result.text, result.reasoning) for result in results] == [("It is 5.", "Hm, 2+3.")]
    stream = model_saying(REASONED).chat([QUESTION], reasoning="hide", stream=True)
    assert "".join(piece for _, piece in stream) == "It is 5."


def test_an_answer_without_a_trace_is_as_it_is() -> None:
    result = model_saying("It is 5.").chat(QUESTION, reasoning="hide")
    assert (result.text, result.reasoning) == ("It is 5.", None)


def test_a_template_may_begin_the_trace() -> None:
    template = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    assert template != CHATML
    result = model_saying("Hm.</think>5").chat(QUESTION, reasoning="hide", chat_template=template)
    assert (result.text, result.reasoning) == ("5", "Hm.")


def test_an_answer_with_a_form_has_no_trace() -> None:
    template = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    model = model_saying("7")
    alone = model.chat(QUESTION, reasoning="hide", chat_template=template, json_schema={"const": 7})
    several = model_saying("7").chat([QUESTION], reasoning="cut", chat_template=template, regex="7")
    assert [(each.text, each.reasoning) for each in (alone, *several)] == [("7", None)] * 2


def test_a_trace_that_is_cut_by_the_limit_leaves_no_text() -> None:
    result = model_saying(REASONED).chat(QUESTION, reasoning="hide", max_new_tokens=16)
    assert (result.text, result.finish_reason) == ("", "length")
    assert result.reasoning
    assert REASONED.removeprefix("<think>").strip().startswith(result.reasoning)


def test_hidden_traces_stay_in_the_conversation() -> None:
    model, conversation = talk("hide", REASONED, "Bye.")
    assert "".join(conversation.ask("2+3?")) == "It is 5."
    assert conversation.messages[-1]["content"] == REASONED
    model.decoder.fed.clear()
    list(conversation.ask("Bye!"))
    assert read(model.decoder.fed).startswith("<|im_end|>\n<|im_start|>user\nBye!")


def test_cut_traces_are_forgotten_and_the_question_is_not_fed_again() -> None:
    model, conversation = talk("cut", REASONED, "Bye.")
    assert "".join(conversation.ask("2+3?")) == "It is 5."
    assert conversation.messages[-1]["content"] == "It is 5."
    model.decoder.fed.clear()
    list(conversation.ask("Bye!"))
    assert read(model.decoder.fed).startswith("It is 5.<|im_end|>\n<|im_start|>user\nBye!<|im_end|>\n")
    state = conversation.state
    assert read(model.decoder.kept_tokens(state)).startswith(FED + "It is 5.<|im_end|>\n")


def test_a_turn_with_a_cut_trace_is_taken_back_whole() -> None:
    _, conversation = talk("cut", REASONED, "Bye.")
    list(conversation.ask("2+3?"))
    list(conversation.ask("Bye!"))
    assert conversation.undo() == "Bye!"
    assert [message["content"] for message in conversation.messages] == ["2+3?", "It is 5."]
    assert "".join(conversation.ask("And?")) == "It is 5."


@pytest.mark.parametrize("mode", ["hide", "cut"])
def test_a_saved_conversation_goes_on(mode: ReasoningMode, tmp_path: Path) -> None:
    model, conversation = talk(mode, REASONED, "Bye.", "Bye.")
    list(conversation.ask("2+3?"))
    conversation.save(tmp_path / "talk.state")
    write_transcript(tmp_path / "talk.json", conversation.transcript())
    for name in ("talk.state", "talk.json"):
        again = Conversation.resume(model, model.options(), tmp_path / name, mode)
        assert again.messages == conversation.messages
        assert "".join(again.ask("Bye!")) == "Bye."


def test_an_answer_that_is_stopped_is_recorded_without_its_trace() -> None:
    _, conversation = talk("cut", REASONED, "Bye.")
    answer = conversation.ask("2+3?")
    assert next(answer) == "I"
    answer.close()
    assert conversation.messages[-1]["content"] == "I"
    assert "".join(conversation.ask("Go on!")) == "t is 5."


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another word": ({"reasoning": "none"}, "reasoning is 'none'; it must be one of show, hide, cut"),
    "cut from a state": ({"reasoning": "cut", "state": True}, "it must be 'hide' with a state"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_modes_that_cannot_be_are_refused(case: str) -> None:
    keywords, words = REFUSED[case]
    model = model_saying(REASONED)
    if "state" in keywords:
        keywords = keywords | {"state": model.new_state()}
    with pytest.raises(OptionError, match=words):
        model.chat(QUESTION, **keywords)


def test_tags_that_are_special_tokens_are_refused() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer._special_ids["<think>"] = 1
    model = ScriptedModel(ScriptedDecoder([1], 300), tokenizer=tokenizer)
    with pytest.raises(OptionError, match="as <think> is a special token, which no text shows"):
        Conversation(model, model.options(), reasoning="hide")
