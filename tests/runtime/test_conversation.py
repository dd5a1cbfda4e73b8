"""A conversation without a terminal: the tokens it feeds, the state it holds, the turns it records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

from doge_export.errors import OptionError, StateError
from doge_export.runtime.conversation import Conversation
from doge_export.runtime.generation_options import GenerationDefaults
from doge_export.runtime.model import Model
from tests.helpers.fakes import (
    CHATML,
    BigramDecoder,
    ScriptedDecoder,
    ScriptedModel,
    byte_level_tokenizer,
    id_of,
    model_saying,
    random_table,
    sentencepiece_tokenizer,
    state_of,
)

TOKENIZER = byte_level_tokenizer()
END = id_of(TOKENIZER, "<|im_end|>")
OTHER_END = id_of(TOKENIZER, "<|endoftext|>")
ANSWERS = ("Hello!", "Bye.")
UNFED = "<|im_end|>\n<|im_start|>assistant\n"  # of the text that a template renders after an answer


def conversation_with(model: Model, system: str | None = None, **options: Any) -> Conversation:
    return Conversation(model, model.options(**options), system)


def read(tokens: list[int]) -> str:
    return TOKENIZER.decode(tokens, skip_special_tokens=False)


def holds(conversation: Conversation, text: str) -> bool:
    """Whether the conversation's state is that of a text's tokens; of a full window only the last are kept."""
    state, decoder, tokens = state_of(conversation), conversation._model.decoder, TOKENIZER.encode(text)
    assert isinstance(decoder, BigramDecoder)
    return state.position == len(tokens) and decoder.kept_tokens(state) == tokens[-decoder.keep_window_size :]


def rendered(*turns: str) -> str:
    roles = ("user", "assistant")
    text = "".join(f"<|im_start|>{roles[i % 2]}\n{turn}<|im_end|>\n" for i, turn in enumerate(turns))
    return text + "<|im_start|>assistant\n"


def test_the_second_turn_feeds_only_what_is_new() -> None:
    model = model_saying(*ANSWERS)
    conversation = conversation_with(model)
    assert "".join(conversation.ask("Hi")) == "Hello!"
    model.decoder.fed.clear()
    answer = conversation.ask("And now?")
    assert "".join(answer) == "Bye."
    new = "<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    assert read(model.decoder.fed) == new + "Bye."
    assert answer.result.prompt_tokens == len(TOKENIZER.encode(new))


def test_the_state_holds_what_the_template_says() -> None:
    conversation = conversation_with(model_saying(*ANSWERS))
    for question in ("Hi", "And now?"):
        list(conversation.ask(question))
    assert holds(conversation, rendered("Hi", "Hello!", "And now?") + "Bye.")
    assert [message["content"] for message in conversation.messages] == ["Hi", "Hello!", "And now?", "Bye."]


def test_an_answer_with_another_end_than_the_templates_is_kept_too() -> None:
    model = model_saying(*ANSWERS, end="<|endoftext|>")
    conversation = conversation_with(model)
    list(conversation.ask("Hi"))
    model.decoder.fed.clear()
    list(conversation.ask("And now?"))
    assert read(model.decoder.fed).startswith("<|im_end|>\n<|im_start|>user")
    assert holds(conversation, rendered("Hi", "Hello!", "And now?") + "Bye.")


@pytest.mark.parametrize("stop", [["!"], ["lo", "xyz"]])
def test_a_past_that_the_template_writes_otherwise_is_taken_back_to_what_is_common(stop: list[str]) -> None:
    model = model_saying(*ANSWERS)
    conversation = conversation_with(model, stop=stop)
    said = "".join(conversation.ask("Hi"))
    model.decoder.fed.clear()
    list(conversation.ask("And now?"))
    assert read(model.decoder.fed).startswith("<|im_end|>\n<|im_start|>user")
    assert model.kept_text(state_of(conversation)).startswith(rendered("Hi", said, "And now?"))


def test_a_template_that_strips_the_past_leaves_the_state_as_if_computed_afresh() -> None:
    strip = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<|im_end|>{% endfor %}[assistant]"
    conversation = conversation_with(model_saying("  Hello!  ", "Bye.", template=strip))
    list(conversation.ask("Hi"))
    list(conversation.ask("And now?"))
    fresh = "[user]Hi<|im_end|>[assistant]Hello!<|im_end|>[user]And now?<|im_end|>[assistant]Bye."
    assert holds(conversation, fresh)


def test_kept_state_and_fresh_computation_give_the_same_answers() -> None:
    decoder = BigramDecoder(random_table(259), 4096)
    model = Model(decoder, TOKENIZER, GenerationDefaults(eos_token_ids=frozenset({END})))
    conversation = conversation_with(model, max_new_tokens=20, repetition_penalty=1.3)
    for question in ("Hi", "And now?", "Why?"):
        answer = conversation.ask(question)
        list(answer)
        state = state_of(conversation)
        assert conversation._ids[: state.position] == decoder.kept_tokens(state)
        context = conversation._ids[: -len(answer.result.token_ids)]
        afresh = model.generate(context, max_new_tokens=20, repetition_penalty=1.3)
        assert afresh.token_ids == answer.result.token_ids


def test_a_system_message_stays_over_a_reset() -> None:
    conversation = conversation_with(model_saying(*ANSWERS), system="Be brief.")
    list(conversation.ask("Hi"))
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert conversation.position == 0


def test_a_closed_answer_keeps_what_was_said() -> None:
    conversation = conversation_with(model_saying(*ANSWERS))
    answer = conversation.ask("Hi")
    assert next(answer) + next(answer) == "He"
    answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": "He"}
    list(conversation.ask("And now?"))
    assert holds(conversation, rendered("Hi", "He", "And now?") + "llo!")


# Beyond the window


def test_a_conversation_goes_on_far_beyond_the_window_and_feeds_every_token_once() -> None:
    model = model_saying(*ANSWERS, window=60)
    conversation = conversation_with(model)
    for _ in range(10):
        assert list(conversation.ask("Hi")) and list(conversation.ask("And now?"))
    assert holds(conversation, rendered(*["Hi", "Hello!", "And now?", "Bye."] * 10).removesuffix(UNFED))
    assert holds(conversation, read(model.decoder.fed))


def test_beyond_the_window_a_rewritten_answer_costs_only_its_own_turn() -> None:
    model = model_saying("Hello!", window=100)
    conversation = conversation_with(model, stop=["lo", "xyz"])
    list(conversation.ask("Once " * 30))
    for question in ("Hi", "And", "now?"):
        model.decoder.fed.clear()
        model.decoder.cursor = -1  # one step of the script goes to feeding the turn before again
        assert "".join(conversation.ask(question)) == "Hel"
    again = "<|im_end|>\n<|im_start|>user\nAnd<|im_end|>\n<|im_start|>assistant\nHel"
    new = "<|im_end|>\n<|im_start|>user\nnow?<|im_end|>\n<|im_start|>assistant\nHell"
    assert read(model.decoder.fed) == again + new
    assert holds(conversation, rendered("Once " * 30, "Hel", "Hi", "Hel").removesuffix(UNFED) + again + new)


def test_beyond_the_window_a_stopped_question_is_taken_back() -> None:
    model = model_saying(*ANSWERS, window=50)
    conversation = conversation_with(model)
    list(conversation.ask("Hi"))
    unanswered = conversation.ask("Never mind")
    model.decoder.forward(state_of(conversation), np.array(unanswered._prompt_ids[conversation.position :][:9]))
    model.decoder.cursor -= 1
    list(conversation.ask("And now?"))
    assert holds(conversation, rendered("Hi", "Hello!", "And now?") + "Bye.")


# Taking back


@pytest.mark.parametrize("window", [4096, 70, 40])
def test_undo_leaves_the_state_as_if_the_turn_had_never_been(window: int) -> None:
    model = model_saying("Hello!", "Wrong.", "Bye.", window=window)
    conversation = conversation_with(model, max_new_tokens=10)
    list(conversation.ask("Hi"))
    list(conversation.ask("Oops"))
    assert conversation.undo() == "Oops"
    model.decoder.fed.clear()
    list(conversation.ask("And now?"))
    fed = read(model.decoder.fed).removeprefix("<|im_end|>")
    assert fed == "\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\nBye."
    assert holds(conversation, rendered("Hi", "Hello!", "And now?") + "Bye.")


def test_a_second_undo_beyond_the_window_computes_the_rest_again() -> None:
    model = model_saying("One.", "Two.", "Three.", "Four.", window=30)
    conversation = conversation_with(model)
    for question in ("a", "b", "c"):
        list(conversation.ask(question))
    assert [conversation.undo(), conversation.undo()] == ["c", "b"]
    model.decoder.cursor -= 1
    list(conversation.ask("d"))
    assert holds(conversation, rendered("a", "One.", "d") + "Four.")


def test_undo_of_everything_leaves_the_system_message_and_then_refuses() -> None:
    conversation = conversation_with(model_saying(*ANSWERS), system="Be brief.")
    list(conversation.ask("Hi"))
    conversation.undo()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}] and conversation.position == 0
    with pytest.raises(OptionError, match="no turn to take back"):
        conversation.undo()


def test_undo_of_a_growing_text_takes_question_and_answer_off_its_end() -> None:
    model = model_saying(" upon a time", " nothing", ", a queen.", template=None)
    conversation = conversation_with(model)
    list(conversation.ask("Once"))
    list(conversation.ask(" oops"))
    conversation.undo()
    list(conversation.ask(" there was"))
    assert holds(conversation, "Once upon a time there was, a queen.")


def test_a_copy_is_kept_only_when_a_turn_may_go_beyond_the_window() -> None:
    conversation = conversation_with(model_saying(*ANSWERS, window=150), max_new_tokens=20)
    list(conversation.ask("Hi"))
    assert conversation._stream.remembered is None
    list(conversation.ask("long " * 20))
    copy = conversation._stream.remembered
    assert copy is not None and copy.position < 150


# Saving


@pytest.mark.parametrize("window", [4096, 40])
@pytest.mark.parametrize("template", [CHATML, None])
def test_a_resumed_conversation_feeds_nothing_again(tmp_path: Path, window: int, template: str | None) -> None:
    model = model_saying("Hello!", window=window, template=template)
    conversation = conversation_with(model)
    list(conversation.ask("Hi"))
    conversation.save(tmp_path / "talk")
    other = model_saying("Bye.", window=window, template=template)
    resumed = Conversation.resume(other, other.options(), tmp_path / "talk")
    assert (resumed.messages, resumed.turns) == (conversation.messages, 1)
    list(resumed.ask("And now?"))
    assert "Hi" not in read(other.decoder.fed)
    assert [resumed.undo(), resumed.undo()] == ["And now?", "Hi"]


def test_the_system_message_of_a_resumed_conversation_stays_over_a_reset(tmp_path: Path) -> None:
    model = model_saying(*ANSWERS)
    conversation_with(model, system="Be brief.").save(tmp_path / "talk")
    resumed = Conversation.resume(model, model.options(), tmp_path / "talk")
    resumed.reset()
    assert resumed.messages == [{"role": "system", "content": "Be brief."}]


def test_a_question_without_answer_is_not_saved(tmp_path: Path) -> None:
    model = model_saying(*ANSWERS, window=30)
    conversation = conversation_with(model)
    list(conversation.ask("Hi"))
    unanswered = conversation.ask("Never mind")
    model.decoder.forward(state_of(conversation), np.array(unanswered._prompt_ids[conversation.position :]))
    conversation.save(tmp_path / "talk")
    resumed = Conversation.resume(model, model.options(), tmp_path / "talk")
    assert holds(resumed, rendered("Hi", "Hello!").removesuffix(UNFED))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("messages", [{"role": "user"}]),
        ("messages", 7),
        ("tokens", []),
        ("tokens", [-1] * 99),
        ("tokens", [True] * 99),
        ("text", 1),
        ("turns", [[9, 0, 0]]),
        ("turns", [["a", 0, 0]]),
        ("turns", [[0]]),
    ],
)
def test_a_damaged_conversation_is_refused(tmp_path: Path, key: str, value: object) -> None:
    model = model_saying(*ANSWERS)
    conversation = conversation_with(model)
    list(conversation.ask("Hi"))
    state = state_of(conversation).copy()
    saved = {"messages": conversation.messages, "tokens": conversation._ids, "text": conversation._text, "turns": []}
    state.metadata["conversation"] = json.dumps(saved | {key: value})
    state.save(tmp_path / "talk")
    with pytest.raises(StateError, match="damaged conversation"):
        Conversation.resume(model, model.options(), tmp_path / "talk")


def test_a_state_without_a_conversation_is_refused(tmp_path: Path) -> None:
    model = model_saying(*ANSWERS)
    model.prefill("Hi").save(tmp_path / "state")
    with pytest.raises(StateError, match="a state without a conversation"):
        Conversation.resume(model, model.options(), tmp_path / "state")


# Other tokenizers and templates


def test_a_model_without_chat_template_goes_on_with_one_text() -> None:
    model = model_saying(" upon a time", ", a queen.", template=None)
    conversation = conversation_with(model)
    list(conversation.ask("Once"))
    list(conversation.ask(" there was"))
    assert read(model.decoder.fed) == "Once upon a time there was, a queen."


def test_a_text_that_makes_no_token_is_refused() -> None:
    tokenizer = byte_level_tokenizer(chat_template=None)
    tokenizer._backend.normalizer = normalizers.Strip()
    model = Model(ScriptedDecoder([0], vocab_size=259), tokenizer)
    with pytest.raises(OptionError, match=r"^the prompt makes no token; give other text$"):
        Conversation(model, model.options()).ask(" ")


def test_a_model_without_chat_template_takes_no_system_message() -> None:
    with pytest.raises(OptionError, match="no chat template; leave the system message away"):
        conversation_with(model_saying("x", template=None), system="Be brief.")


def test_a_tokenizer_that_puts_a_space_before_every_text_puts_none_between_the_turns() -> None:
    tokenizer = sentencepiece_tokenizer()
    tokenizer.chat_templates["default"] = (
        "{% for m in messages %}{{ '[u]' if m.role == 'user' else '[a]' }}{{ m.content }}{% endfor %}[a]"
    )
    script = [*tokenizer.encode("hello world"), *tokenizer.encode("</s>", add_special_tokens=False)]
    ends = GenerationDefaults(eos_token_ids=frozenset(script[-1:]))
    model = ScriptedModel(ScriptedDecoder(script, vocab_size=400), tokenizer, ends)
    conversation = conversation_with(model)
    said = "".join(conversation.ask("hi"))
    list(conversation.ask("and you"))
    assert model.kept_text(state_of(conversation)).startswith(f"[u]hi[a]{said}[u]and you[a]")
