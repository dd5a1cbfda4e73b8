"""A conversation without a terminal: what is fed, what is kept, what is recorded."""

from __future__ import annotations

import pytest

from doge_export.errors import ContextLengthError, OptionError
from doge_export.runtime.conversation import Conversation
from doge_export.runtime.model import Model
from doge_export.runtime.settings import GenerationDefaults
from tests.fakes import (
    BigramDecoder,
    ScriptedDecoder,
    byte_level_tokenizer,
    model_saying,
    random_table,
    sentencepiece_tokenizer,
)

TOKENIZER = byte_level_tokenizer()
END = TOKENIZER.special_id("<|im_end|>")
OTHER_END = TOKENIZER.special_id("<|endoftext|>")
ANSWERS = ("Hello!", "Bye.")


def conversation_with(model, system=None, **options):
    return Conversation(model, model.options(**options), system)


def read(tokens):
    return TOKENIZER.decode(tokens, skip_special_tokens=False)


def rendered(*turns):
    roles = ("user", "assistant")
    text = "".join(f"<|im_start|>{roles[i % 2]}\n{turn}<|im_end|>\n" for i, turn in enumerate(turns))
    return text + "<|im_start|>assistant\n"


def test_the_second_turn_feeds_only_what_is_new():
    model = model_saying(*ANSWERS)
    conversation = conversation_with(model)
    assert "".join(conversation.ask("Hi")) == "Hello!"
    model.decoder.fed.clear()
    answer = conversation.ask("And now?")
    assert "".join(answer) == "Bye."
    new = "<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    assert read(model.decoder.fed) == new + "Bye."
    assert answer.result.prompt_tokens == len(TOKENIZER.encode(new))


def test_the_state_holds_what_the_template_says():
    conversation = conversation_with(model_saying(*ANSWERS))
    for question in ("Hi", "And now?"):
        list(conversation.ask(question))
    assert read(conversation._state.tokens) == rendered("Hi", "Hello!", "And now?") + "Bye."
    assert [message["content"] for message in conversation.messages] == ["Hi", "Hello!", "And now?", "Bye."]


def test_an_answer_with_another_end_than_the_templates_is_kept_too():
    model = model_saying(*ANSWERS, end="<|endoftext|>")
    conversation = conversation_with(model)
    list(conversation.ask("Hi"))
    model.decoder.fed.clear()
    list(conversation.ask("And now?"))
    assert read(model.decoder.fed).startswith("<|im_end|>\n<|im_start|>user")
    assert read(conversation._state.tokens) == rendered("Hi", "Hello!", "And now?") + "Bye."


@pytest.mark.parametrize("stop", [["!"], ["lo", "xyz"]])
def test_a_past_that_the_template_writes_otherwise_is_taken_back_to_what_is_common(stop):
    model = model_saying(*ANSWERS)
    conversation = conversation_with(model, stop=stop)
    said = "".join(conversation.ask("Hi"))
    model.decoder.fed.clear()
    list(conversation.ask("And now?"))
    assert read(model.decoder.fed).startswith("<|im_end|>\n<|im_start|>user")
    assert read(conversation._state.tokens).startswith(rendered("Hi", said, "And now?"))


def test_a_template_that_strips_the_past_leaves_the_state_as_if_computed_afresh():
    strip = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<|im_end|>{% endfor %}[assistant]"
    conversation = conversation_with(model_saying("  Hello!  ", "Bye.", template=strip))
    list(conversation.ask("Hi"))
    list(conversation.ask("And now?"))
    assert read(conversation._state.tokens).startswith("[user]Hi<|im_end|>[assistant]Hello!<|im_end|>[user]And now?")


def test_kept_state_and_fresh_computation_give_the_same_answers():
    model = Model(BigramDecoder(random_table(259), 4096), TOKENIZER, GenerationDefaults(eos_token_ids=frozenset({END})))
    conversation = conversation_with(model, max_new_tokens=20, repetition_penalty=1.3)
    for question in ("Hi", "And now?", "Why?"):
        answer = conversation.ask(question)
        list(answer)
        assert conversation._ids[: conversation._state.position] == conversation._state.tokens
        context = conversation._ids[: -len(answer.result.token_ids)]
        afresh = model.generate(context, max_new_tokens=20, repetition_penalty=1.3)
        assert afresh.token_ids == answer.result.token_ids


def test_a_system_message_stays_over_a_reset():
    conversation = conversation_with(model_saying(*ANSWERS), system="Be brief.")
    list(conversation.ask("Hi"))
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert conversation._state.position == 0


def test_a_closed_answer_keeps_what_was_said():
    conversation = conversation_with(model_saying(*ANSWERS))
    answer = conversation.ask("Hi")
    assert next(answer) + next(answer) == "He"
    answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": "He"}
    list(conversation.ask("And now?"))
    assert read(conversation._state.tokens).startswith(rendered("Hi", "He", "And now?"))


def test_a_message_without_room_leaves_the_conversation_as_it_was():
    conversation = conversation_with(model_saying(*ANSWERS, window=80))
    list(conversation.ask("Hi"))
    before = [*conversation.messages]
    with pytest.raises(ContextLengthError):
        list(conversation.ask("too long " * 20))
    assert conversation.messages == before
    assert (
        "".join(
            conversation.ask(
                "x",
            )
        )
        == "Bye."
    )


def test_an_answer_may_fill_the_window():
    conversation = conversation_with(model_saying("Hello there!", window=30))
    answer = conversation.ask("Hi")
    list(answer)
    assert answer.result.finish_reason == "length" and conversation.is_full


def test_a_model_without_chat_template_goes_on_with_one_text():
    model = model_saying(" upon a time", ", a queen.", template=None)
    conversation = conversation_with(model)
    list(conversation.ask("Once"))
    list(conversation.ask(" there was"))
    assert read(model.decoder.fed) == "Once upon a time there was, a queen."


def test_a_model_without_chat_template_takes_no_system_message():
    with pytest.raises(OptionError, match="no chat template, so it takes no system message"):
        conversation_with(model_saying("x", template=None), system="Be brief.")


def test_a_tokenizer_that_puts_a_space_before_every_text_puts_none_between_the_turns():
    tokenizer = sentencepiece_tokenizer()
    tokenizer.chat_templates["default"] = (
        "{% for m in messages %}{{ '[u]' if m.role == 'user' else '[a]' }}{{ m.content }}{% endfor %}[a]"
    )
    script = [*tokenizer.encode("hello world"), *tokenizer.encode("</s>", add_special_tokens=False)]
    ends = GenerationDefaults(eos_token_ids=frozenset(script[-1:]))
    conversation = conversation_with(Model(ScriptedDecoder(script, vocab_size=400), tokenizer, ends))
    said = "".join(conversation.ask("hi"))
    list(conversation.ask("and you"))
    assert tokenizer.decode(conversation._state.tokens).startswith(f"[u]hi[a]{said}[u]and you[a]")
