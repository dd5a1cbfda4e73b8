"""A ChatML template without marks gets them: the text stays, and answers alone are learned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from doge_common.errors import OptionError
from tests.helpers.checkpoints import save_tokenizer
from train.templates import check_training_template, marked_template

LOOP = "{% for message in messages %}TURN{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURNS = {
    "one sum": r"{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}",
    "one sum, a line break in the end": r"{{'<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n'}}",
    "double quotes": r'{{ "<|im_start|>" + message["role"] + "\n" + message["content"] + "<|im_end|>" + "\n" }}',
    "white space cut": "  {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}  \n",
    "line breaks as they are": "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
    "trimmed": r"{{ '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}",
    "expressions side by side": r"{{ '<|im_start|>' + message.role + '\n' }}{{ message.content }}{{ '<|im_end|>\n' }}",
    "expressions in lines": "{{'<|im_start|>' + message.role -}}\n{{'\\n' -}} {{- message.content}}{{'<|im_end|>\\n'}}",
    "text": "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n",
}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "It is 2."},
    {"role": "user", "content": "And 2 + 2?"},
    {"role": "assistant", "content": "4"},
]


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    return save_tokenizer(tmp_path)


def learned_text(tokenizer: PreTrainedTokenizerFast) -> str:
    """The text of the tokens that a stage learns of CHAT."""
    check_training_template(tokenizer, "base", None, True)
    out = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    learned = [token for token, mark in zip(out["input_ids"], out["assistant_masks"], strict=True) if mark]
    text: str = tokenizer.decode(learned)
    return text


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
def test_marks_keep_the_text_and_enclose_answers(turn: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = LOOP.replace("TURN", turn)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    original = check_training_template(tokenizer, "base", None, True)
    out = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    learned = [token for token, mark in zip(out["input_ids"], out["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(learned) == "It is 2.<|im_end|>4<|im_end|>"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == text == tokenizer.decode(out["input_ids"])
    assert original == LOOP.replace("TURN", turn)


@pytest.mark.parametrize("name", ["m", "msg", "turn"])
@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
def test_a_turn_may_have_any_name(turn: str, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = re.sub(r"\bmessage\b", name, LOOP.replace("TURN", turn))
    assert f"for {name} in messages" in tokenizer.chat_template
    assert learned_text(tokenizer) == "It is 2.<|im_end|>4<|im_end|>"


# as fine-tuning scripts set it
SCRIPTS = (
    "{% for msg in messages %}{{'<|im_start|>' + msg['role'] + '\n' + msg['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_template_of_fine_tuning_scripts_is_trained_with(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = SCRIPTS
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert learned_text(tokenizer) == "It is 2.<|im_end|>4<|im_end|>"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == text


def test_a_template_from_a_file_gets_marks_too(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "chatml.jinja"
    path.write_text(LOOP.replace("TURN", TURNS["one sum"]))
    assert check_training_template(tokenizer, "base", str(path), True) == path.read_text()
    assert "{% generation %}" in tokenizer.chat_template


UNMARKED = {
    "questions alone": "{% if message.role == 'user' %}{{ message.content + '<|im_end|>' }}{% endif %}",
    "content by another name": "{% set text = message.content %}{{ text + '<|im_end|>' }}",
    "an end that no mark can enclose": "{{ message.content }}{% if true %}{{ '<|im_end|>' }}{% endif %}",
    "a sum of numbers too": "{{ message.content + '<|im_end|>' * 2 }}",
}


@pytest.mark.parametrize("turn", UNMARKED.values(), ids=UNMARKED.keys())
def test_other_templates_are_refused_with_the_option_to_pass(turn: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = LOOP.replace("TURN", turn)
    assert marked_template(tokenizer) is None
    with pytest.raises(OptionError, match=r"--chat_template_path FILE\.jinja, or learn questions too with --assistant"):
        check_training_template(tokenizer, "base", None, True)
