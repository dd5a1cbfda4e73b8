from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from doge_export.errors import OptionError, PackageError
from doge_export.runtime.chat_template import ChatTemplate, Message
from doge_export.runtime.model import Model
from doge_export.runtime.tokenizer import Tokenizer
from tests.helpers.fakes import CHATML, BigramDecoder, byte_level_tokenizer, random_table

SPECIAL_TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}

# SmolLM2's: a system message of its own where there is none.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Llama 3's with its date, trimming and refusals; Doge's headers are of this kind.
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "Tools: " + (tools | tojson(indent=4)) }}
{%- endif %}
{{- system_message + eos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# Everything transformers adds to Jinja: the generation tag, loop controls, unescaped JSON, namespaces, block trimming.
DIALECT = """\
{% set ns = namespace(count=0) %}
{% for message in messages %}
    {% if message.role == 'tool' %}
        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
{{ ns.count }} {{ message | tojson }} {{ dict(role=message.role) | tojson(indent=2) }}
    {% if message.role == 'assistant' %}
{% generation %}{% set inner = message.content %}{{ inner }}{% endgeneration %}{{ inner }}
        {% break %}
    {% endif %}
{% endfor %}
"""
CONVERSATIONS = {
    "one question": [{"role": "user", "content": " Why is <b>1 < 2</b> & 'true'? \n"}],
    "with system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "日本語?"}],
    "two turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!", "tool_calls": None},
        {"role": "user", "content": "{{ messages }} {% raw %}"},
    ],
}


@pytest.mark.parametrize("template", [CHATML, SMOLLM2, LLAMA3, DIALECT], ids=["chatml", "smollm2", "llama3", "dialect"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_the_text_is_that_of_transformers(template: str, messages: list[Message], add_generation_prompt: bool) -> None:
    # The tokenizer's apply_chat_template removes keys without a value before it calls the renderer.
    plain = [{name: value for name, value in message.items() if value is not None} for message in messages]
    expected, _ = render_jinja_template(
        [plain], chat_template=template, add_generation_prompt=add_generation_prompt, **SPECIAL_TOKENS
    )
    ours = ChatTemplate(template, SPECIAL_TOKENS).render(messages, add_generation_prompt)
    assert ours == expected[0]


def test_the_date_is_todays() -> None:
    rendered = ChatTemplate("{{ strftime_now('%d %b %Y') }}").render([{"role": "user", "content": "Hi"}])
    assert rendered == datetime.now().strftime("%d %b %Y")


def test_a_refusal_of_the_template_is_one_sentence_with_its_words() -> None:
    with pytest.raises(OptionError, match=r"^the chat template does not accept these messages: .* roles "):
        ChatTemplate(LLAMA3, SPECIAL_TOKENS).render([{"role": "assistant", "content": "Hi"}])


@pytest.mark.parametrize("expression", ["messages[7].role", "1 / 0", "messages + 1", "nothing.at", "range(10 ** 9)"])
def test_a_template_that_fails_on_the_messages_is_one_sentence(expression: str) -> None:
    with pytest.raises(OptionError, match=r"^the chat template does not accept these messages: .*[^.]$"):
        ChatTemplate("{{ " + expression + " }}").render([{"role": "user", "content": "Hi"}])


def test_invalid_jinja_is_a_damaged_package() -> None:
    with pytest.raises(PackageError, match=r"not valid Jinja \(.*\); write another"):
        ChatTemplate("{% for message in messages %}")


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ dict.__init__.__globals__ }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    with pytest.raises(OptionError, match="does not accept these messages"):
        ChatTemplate(attack).render([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("Hi", "non-empty list"),
        ([], "non-empty list"),
        ({"role": "user", "content": "Hi"}, "non-empty list"),
        (["Hi"], r"messages\[0\] is 'Hi'; it must be a dictionary"),
        ([{"role": "user"}], r"messages\[0\]\['content'\] is missing; give it as text"),
        ([{"content": "Hi"}], r"messages\[0\]\['role'\] is missing"),
        ([{"role": "user", "content": "Hi"}, {"role": "user", "content": 3}], r"messages\[1\]\['content'\] is 3"),
    ],
)
def test_malformed_messages_are_refused(messages: Any, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        ChatTemplate(CHATML).render(messages)


# Where a folder keeps its template


def folder_with(path: Path, template_file: str | None = None, **tokenizer_config: Any) -> Path:
    byte_level_tokenizer()._backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    if template_file is not None:
        (path / "chat_template.jinja").write_text(template_file)
    return path


def tokenizer_of(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer is not None
    return tokenizer


def test_a_template_file_comes_before_the_tokenizers_configuration(tmp_path: Path) -> None:
    folder_with(tmp_path, template_file="from the file", chat_template="from the configuration")
    assert tokenizer_of(tmp_path).chat_templates == {"default": "from the file"}


def test_a_template_may_be_a_string_or_a_list_of_named_ones(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    assert tokenizer_of(folder_with(tmp_path, chat_template="A")).chat_templates == {"default": "A"}
    assert tokenizer_of(folder_with(tmp_path, chat_template=named)).chat_templates == {"default": "A", "tool_use": "B"}


def test_a_template_of_another_form_is_a_damaged_package(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"chat_template is a list; it must be a string, or"):
        tokenizer_of(folder_with(tmp_path, chat_template=[1]))


def test_named_templates_without_a_default_are_refused_with_their_names(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(folder_with(tmp_path, chat_template=[{"name": "rag", "template": "A"}]))
    with pytest.raises(PackageError, match="has the chat templates rag, but no default"):
        _ = Model(BigramDecoder(random_table(2)), tokenizer).chat_template


def test_special_tokens_are_read_as_text_or_object_and_from_either_file(tmp_path: Path) -> None:
    folder_with(tmp_path, bos_token={"content": "<s>", "special": True}, eos_token="</s>", pad_token=None)
    (tmp_path / "special_tokens_map.json").write_text('{"unk_token": "<unk>", "eos_token": "other"}')
    assert tokenizer_of(tmp_path).special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


# The tokenizer's own file


def test_padding_and_truncation_stored_in_the_file_do_not_touch_a_prompt(tmp_path: Path) -> None:
    backend = byte_level_tokenizer()._backend
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(tokenizer_of(tmp_path).encode("hello")) == 5


def test_a_folder_without_tokenizer_has_none(tmp_path: Path) -> None:
    assert Tokenizer.from_folder(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff"])
def test_a_damaged_tokenizer_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(PackageError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.from_folder(tmp_path)
