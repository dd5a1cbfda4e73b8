"""Answers of a given form: whatever the model and the options, an answer that ends by itself is valid."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models

import doge_export
from doge_export.errors import OptionError, PackageError
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from doge_export.runtime.tokenizer import Tokenizer
from tests.helpers.fakes import (
    BigramDecoder,
    byte_level_tokenizer,
    defaults_for,
    id_of,
    random_table,
    sentencepiece_tokenizer,
)
from tests.helpers.schemas import RandomDecoder, is_valid, random_schema

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "doge-20m-10min-int8"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def trained_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_folder(CHECKPOINT)
    assert tokenizer is not None
    return tokenizer


TOKENIZERS = {
    "byte-level": byte_level_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "trained": trained_tokenizer,
}


def random_model(kind: str = "byte-level", **keywords: Any) -> Model:
    """A model that answers anything, with more tokens than its tokenizer knows."""
    tokenizer = TOKENIZERS[kind]()
    likely = [*tokenizer.encode_inside('"'), *tokenizer.encode_inside("}"), *tokenizer.encode_inside("]")]
    decoder = RandomDecoder(len(tokenizer) + 5, likely)
    return Model(decoder, tokenizer, defaults_for(tokenizer), **keywords)


def check_random_schemas(kind: str, seeds: range) -> None:
    """Most answers end by themselves, and those that do are valid."""
    model = random_model(kind)
    schemas = [random_schema(Random(seed)) for seed in seeds]
    ended = 0
    for start in range(0, len(schemas), 10):
        some = schemas[start : start + 10]
        per_prompt: Any = [{"json_schema": schema} for schema in some]
        answers = model.generate(
            ["a"] * len(some), options_per_prompt=per_prompt, temperature=1.5, seed=start, max_new_tokens=300
        )
        for schema, answer in zip(some, answers, strict=True):
            assert answer.finish_reason == "length" or is_valid(answer.text, schema), (schema, answer.text)
            ended += answer.finish_reason == "stop"
    assert ended > 0.8 * len(schemas)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_answers_by_random_schemas_are_valid(kind: str) -> None:
    check_random_schemas(kind, range(12))


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_answers_by_500_random_schemas_are_valid(kind: str) -> None:
    check_random_schemas(kind, range(1000, 1500))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_answer_matches_its_regular_expression_from_the_first_space_to_the_last(
    kind: str, temperature: float
) -> None:
    model = random_model(kind)
    for seed, pattern in enumerate(
        [" a b", " {2}[a-z]{3} ", "(yes|no)", "[0-9]{2}é日\n", "[😀-😎]{40}", " ?[a-c]{0,4}", "\t*x"]
    ):
        result = model.generate("a", regex=pattern, temperature=temperature, seed=seed, max_new_tokens=200)
        assert result.finish_reason == "length" or re.fullmatch(pattern, result.text), (pattern, result.text)


def test_a_grammar_is_followed() -> None:
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[1-9][0-9]?/'
    result = random_model().generate("a", grammar=grammar, temperature=1.5, seed=0, max_new_tokens=200)
    assert result.finish_reason == "stop" and re.fullmatch(r"[1-9]\d?(\+[1-9]\d?)*", result.text)


def test_the_likeliest_allowed_token_is_chosen() -> None:
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer())
    best = max(
        "xyz", key=lambda letter: model.logits(model.tokenizer.encode("a"))[0, model.tokenizer.encode(letter)[0]]
    )
    assert model.generate("a", regex="[xyz]").text == best


def test_an_answer_that_is_cut_says_so_and_one_that_is_complete_ends_without_an_end() -> None:
    model = random_model()
    cut = model.generate("a", json_schema=PERSON, max_new_tokens=9)
    assert cut.finish_reason == "length" and not is_valid(cut.text, PERSON)
    whole = model.generate("a", regex="abc", max_new_tokens=3)
    assert (whole.text, whole.finish_reason, whole.completion_tokens) == ("abc", "stop", 3)
    assert model.generate("a", regex="abc", ignore_eos=True, min_new_tokens=99).text == "abc"


def test_an_end_comes_only_where_the_form_is_complete() -> None:
    table = np.zeros((259, 259), np.float32)
    tokenizer = byte_level_tokenizer()
    table[:, id_of(tokenizer, "<|im_end|>")] = 9  # always wants to end
    model = Model(BigramDecoder(table), tokenizer, defaults_for(tokenizer))
    result = model.generate("a", regex="aaa(bbb)*")
    assert result.text == "aaa" and result.finish_reason == "stop"
    assert model.generate("a", regex="aaa(bbb)*", min_new_tokens=4).text == "aaabbb"
    forced: Any = {"regex": "a+", "forced_eos_token_id": [5, id_of(tokenizer, "<|im_end|>")], "min_new_tokens": 9}
    assert model.generate("a", **forced, max_new_tokens=2).text == "a"
    cut = model.generate("a", regex="aaa(bbb)*", forced_eos_token_id=258, max_new_tokens=2)
    assert (cut.text, cut.finish_reason) == ("aa", "length")


def test_a_line_end_that_ends_answers_does_not_end_json_in_the_middle() -> None:
    model = random_model()
    model.defaults = type(model.defaults)(eos_token_ids=frozenset(model.tokenizer.encode("\n ")))
    for seed in range(5):
        result = model.generate("a", json_schema=PERSON, temperature=1.5, seed=seed, max_new_tokens=300)
        assert result.finish_reason == "length" or is_valid(result.text, PERSON), result.text


def test_batches_streams_chats_threads_and_prompt_lookup_answer_as_alone() -> None:
    model, options = random_model(), dict[str, Any](json_schema=PERSON, max_new_tokens=120, temperature=1.0, seed=5)
    prompts = ["abcabcabc", '{"name": "a", "age": 1}{"name']
    alone = [model.generate(prompt, **options | {"seed": 5 + index}) for index, prompt in enumerate(prompts)]
    texts = [result.text for result in alone]
    assert all(is_valid(text, PERSON) for text in texts)
    assert [result.text for result in model.generate(prompts, **options)] == texts
    assert [result.text for result in random_model(max_streams=2).generate(prompts, **options)] == texts
    assert model.generate(prompts[0], prompt_lookup_num_tokens=7, **options).text == texts[0]
    assert "".join(model.stream(prompts[0], **options)) == texts[0]
    messages = [{"role": "user", "content": "Hi"}]
    assert is_valid(model.chat(messages, **options).text, PERSON)


def test_a_conversation_goes_on_after_an_answer_that_ended_without_an_end() -> None:
    model = random_model()
    conversation = doge_export.Conversation(model, GenerationOptions(regex="yes|no"))
    for turn in range(3):
        assert "".join(conversation.ask("Well?")) in ("yes", "no")
        assert conversation.turns == turn + 1
    told = model.tokenizer.decode(conversation._ids, skip_special_tokens=False)
    assert told.count("<|im_end|>") == 5


def test_cleaning_up_takes_no_space_from_an_answer_with_a_form() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.clean_up_tokenization_spaces = True
    model = Model(BigramDecoder(random_table(259)), tokenizer)
    assert model.generate("a", regex="a , b !").text == "a , b !"


BAD: Any = [
    ({"json_schema": {"not": {}}}, r"json_schema cannot be followed: Unimplemented keys: \[\"not\"\]; change it"),
    ({"json_schema": {"type": "string", "pattern": "(?=a)"}}, "look-around"),
    ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "Unsatisfiable"),
    ({"json_schema": {"$ref": "http://nowhere/schema"}}, "it must be # or begin with #/"),
    ({"json_schema": {"$ref": "#/$defs/a"}}, "the .ref '#/.defs/a', which names nothing in it; correct it"),
    ({"json_schema": {"$ref": "#/x/1", "x": [{}]}}, "names nothing in it"),
    ({"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$id": "b"}}}}, "an .id below its top"),
    ({"json_schema": {"pattern": "^[a-z&&[aeiou]]$"}}, "whose brackets the library would read in another way"),
    ({"json_schema": {"patternProperties": {"[[:alpha:]]": {}}, "additionalProperties": False}}, "whose brackets"),
    ({"json_schema": {"pattern": "[]a]"}}, "whose brackets"),
    ({"json_schema": "{"}, "json_schema is no JSON"),
    ({"json_schema": {"default": float("nan")}}, "json_schema is no JSON"),
    ({"json_schema": {"const": {1, 2}}}, "json_schema is no JSON"),
    ({"json_schema": 3}, "json_schema is 3; it must be a JSON schema"),
    ({"json_schema": "[1]"}, "it must be a JSON schema"),
    ({"json_schema": False}, "it must be a JSON schema"),
    ({"json_schema": {"x-guidance": {"lenient": True}}}, "x-guidance"),
    ({"json_schema": {"properties": {"a": {"anyOf": [{"minProperties": 2}]}}}}, "minProperties of 2"),
    ({"json_schema": {"type": "number", "exclusiveMinimum": 1, "maximum": 1}}, "Unsatisfiable"),
    ({"json_schema": {"enum": [1, 92.76770919476019]}}, "a constant of more than 15 digits or 22 decimals"),
    ({"json_schema": {"type": "number", "exclusiveMinimum": 10**400, "maximum": 10**400 + 1}}, "beyond 2\\*\\*53"),
    ({"json_schema": {"minimum": 10**400, "exclusiveMinimum": True, "maximum": 2 * 10**400}}, "beyond 2\\*\\*53"),
    ({"json_schema": {"const": [{"a": 2**53 + 1}]}}, r"beyond 2\*\*53 in const, .* give one from -2\*\*53 to 2\*\*53"),
    ({"json_schema": {"items": {"enum": [1, -1e25]}}}, r"beyond 2\*\*53 in enum"),
    ({"json_schema": {"type": "string", "minLength": 10**400}}, "number out of range"),
    ({"json_schema": {"type": "number", "multipleOf": 0.01}}, "multipleOf of 0.01, which binary numbers cannot hold"),
    ({"json_schema": {"allOf": [{"multipleOf": 2}, {"multipleOf": 3}]}}, "several values of multipleOf"),
    ({"json_schema": {"allOf": [{"anyOf": [{}, {}]}] * 40}}, "combines too many schemas"),
    ({"json_schema": {"type": "integer", "multipleOf": 2**31}}, "multipleOf of 2147483648; give at most 100000"),
    ({"json_schema": {"items": {"multipleOf": 0.0000019073486328125}}}, "give at most 100000, or in decimals as few"),
    ({"json_schema": {"anyOf": [{"multipleOf": 9973}, {"multipleOf": 9972}]}}, "several multipleOf, which together"),
    ({"json_schema": {"properties": {step: {"multipleOf": 99990 + int(step)} for step in "123"}}}, "several mult"),
    ({"json_schema": {"prefixItems": [{}], "items": [{}]}}, "prefixItems beside a list of items, which two drafts"),
    (
        {"json_schema": {"patternProperties": {r"^\w$": {}}, "additionalProperties": False, "properties": {"é": {}}}},
        "may match another key outside of ASCII; write",
    ),
    (
        {
            "json_schema": {
                "patternProperties": {r"^\d$": {}, "^[^a]$": {"type": "null"}},
                "additionalProperties": False,
            }
        },
        "may match another key",
    ),
    ({"json_schema": {"exclusiveMinimum": True, "minimum": 0}}, "a true or false exclusiveMinimum, which draft 4"),
    ({"json_schema": {"$schema": "http://json-schema.org/draft-03/schema#"}}, "give one of draft 4 or later"),
    ({"json_schema": {"pattern": "^a++$"}}, "signs of repetition"),
    ({"json_schema": {"items": {"pattern": "(?x)a b"}}}, "whose flags"),
    ({"json_schema": {"items": {"properties": {"a\nb": {}}}}}, "a control character in the name of a property"),
    ({"regex": "a("}, "regex cannot be followed: .*unclosed group; change it"),
    ({"regex": "a\ud800"}, "regex holds .*half a character"),
    ({"json_schema": {"const": "\ud800"}}, "json_schema cannot be followed"),
    ({"regex": 3}, "regex is 3; it must be a string"),
    ({"grammar": "start: foo"}, 'grammar cannot be followed: .*unknown name: "foo"'),
    ({"grammar": ""}, "grammar cannot be followed"),
    ({"regex": "a", "grammar": "b"}, "an answer has one form, but regex and grammar are given"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_a_form_that_cannot_be_followed_is_one_sentence(options: Any, message: str) -> None:
    model = random_model()
    with pytest.raises(OptionError, match=message) as error:
        model.stream("a", **options)
    assert "\n" not in str(error.value)


def test_a_key_minproperties_among_data_is_no_keyword() -> None:
    schema = {"properties": {"minProperties": {"const": {"minProperties": 9}}}, "required": ["minProperties"]}
    assert json.loads(GenerationOptions(json_schema=schema).json_schema or "") == schema  # type: ignore[arg-type]  # checked text


POSITIVE = {"type": "number", "exclusiveMinimum": 0}
EVEN, THIRD = {"type": "number", "multipleOf": 2}, {"multipleOf": 3}
TWO_STEPS = "several values of multipleOf for one number"
MERGED: Any = [
    ({"properties": {"share": {"$ref": "#/$defs/pos", **THIRD}}, "$defs": {"pos": EVEN}}, TWO_STEPS),
    ({"allOf": [EVEN, THIRD]}, TWO_STEPS),
    ({"type": "number", **THIRD, "anyOf": [{"multipleOf": 2}, {"minimum": -2}]}, TWO_STEPS),
    ({"allOf": [{"properties": {"a": EVEN}}, {"additionalProperties": THIRD}]}, TWO_STEPS),
    ({"allOf": [{"prefixItems": [{}, EVEN]}, {"items": {"anyOf": [{"type": "null"}, THIRD]}}]}, TWO_STEPS),
    ({"$ref": "#/x~1y/a%20b", "x/y": {"a b": {"$ref": "#/$defs/a", **THIRD}}, "$defs": {"a": EVEN}}, TWO_STEPS),
    ({"allOf": [{"$ref": "#/a"}, {"$ref": "#/a"}], "a": {"anyOf": [EVEN, THIRD]}}, TWO_STEPS),
    ({"properties": {"next": {"$ref": "#"}, "a": EVEN}, "allOf": [{"properties": {"next": {"$ref": "#/x"}}}],
      "x": {"additionalProperties": THIRD}}, TWO_STEPS),
    ({"$ref": "#/components/schemas/P", "components": {"schemas": {"P": {"multipleOf": 0.01}}}}, "multipleOf of 0.01"),
    ({"$ref": "#/x/P", "x": {"P": {"const": 2**53 + 1}}}, "beyond 2\\*\\*53 in const"),
    ({"items": {"$ref": "#/x/0"}, "x": [{"minProperties": 3}]}, "minProperties of 3"),
    ({"allOf": [{"required": ["a"]}, {"minProperties": 2}]}, "minProperties of 2"),
    ({"allOf": [{"items": {"minimum": 0.4}}, {"items": {"allOf": [EVEN, THIRD]}}]}, TWO_STEPS),
    ({"properties": {"a": {"minProperties": 2}}, "patternProperties": {"^b": {"required": ["c", "d"]}},
      "additionalProperties": False},
     "minProperties of 2"),
    ({"minProperties": 2, "required": ["a", "a"]}, "minProperties of 2"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "message"), MERGED, ids=str)
def test_what_cannot_be_kept_is_refused_behind_references_and_where_schemas_merge(schema: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GenerationOptions(json_schema=schema)


KEPT: Any = [
    {"$ref": "#/$defs/a", "description": "b", "$defs": {"a": POSITIVE}},
    {"allOf": [{"$ref": "#/$defs/a"}], "default": 1, "$defs": {"a": POSITIVE}},
    {"anyOf": [POSITIVE | {"maximum": 3}, {"type": "number", "minimum": -0.5, "maximum": 0.5}]},
    {"allOf": [{"type": "object", "minProperties": 2}, {"required": ["a", "b"]}], "additionalProperties": {"const": 1}},
    {"$defs": {"t": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 1}]}},
     "$ref": "#/$defs/t"},
    {"type": "string", "pattern": r"(?i)^(?:[*+]+\++|(?P<x>a){2})?$"},
    {"type": "string", "pattern": r"^[\[\]&a-c-]{3}[^\]a-z]\[$"},
]  # fmt: skip


@pytest.mark.parametrize("schema", KEPT, ids=str)
def test_common_references_and_merges_are_followed(schema: Any) -> None:
    model = random_model()
    for seed in range(10):
        answer = model.generate("a", json_schema=schema, temperature=1.5, seed=seed, max_new_tokens=300)
        assert answer.finish_reason == "length" or is_valid(answer.text, schema), answer.text


def test_numbers_keep_their_bounds() -> None:
    model = random_model()
    for bounds in (
        {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"exclusiveMinimum": 0.1, "maximum": 0.2},
        {"exclusiveMinimum": 0, "maximum": 0.5},
        {"minimum": -0.5, "exclusiveMaximum": 0},
        {"multipleOf": 0.25},
        {"multipleOf": 3600, "minimum": -(10**6), "maximum": 10**6},
        {"multipleOf": 1000, "minimum": 1, "maximum": 10**5},
        {"anyOf": [{"multipleOf": 60}, {"multipleOf": 3600}], "minimum": 0, "maximum": 9999},
        {"type": "integer", "exclusiveMinimum": 2**53 - 3, "maximum": 2**53},
        {"enum": [2**53, -(2**53)]},
    ):
        schema = {"type": "number", **bounds}
        answers = [model.generate("a", json_schema=schema, temperature=1.5, seed=seed).text for seed in range(20)]
        assert all(is_valid(text, schema) for text in answers), answers


def test_a_deep_schema_is_read_or_refused_in_one_sentence() -> None:
    schema: Any = {}
    for _ in range(900):
        schema = {"items": schema}
    with pytest.raises(OptionError, match="json_schema"):
        random_model().generate("a", json_schema=schema)


def test_a_form_and_options_that_leave_no_token_are_one_sentence() -> None:
    model = random_model()
    ids = tuple(model.tokenizer.encode("ab"))
    with pytest.raises(OptionError, match="no token is left to choose: suppress_tokens and regex rule all of them out"):
        model.generate("a", regex="[ab]", suppress_tokens=ids)
    with pytest.raises(OptionError, match="no token of this model fits"):
        model.generate("a", grammar='start: start "a"')


def test_a_model_whose_tokens_are_no_bytes_takes_no_form() -> None:
    backend = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.decoder = tokenizers.decoders.WordPiece()
    model = Model(BigramDecoder(random_table(3)), Tokenizer(backend))
    with pytest.raises(OptionError, match="need a tokenizer of byte-level or SentencePiece kind"):
        model.generate("a", regex="a")
    with pytest.raises(PackageError, match="no tokenizer"):
        Model(BigramDecoder(random_table(3))).generate([0], regex="a")


def test_without_llguidance_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(OptionError, match=r"needs llguidance: pip install .*\[structured\]"):
        random_model().generate("a", regex="a")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_bytes_of_tokens_are_those_that_decoding_shows(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    before = tokenizer.encode_inside("a")
    for token_id in range(len(tokenizer)):
        if not tokenizer.is_silent(token_id):
            shown = tokenizer.decode([*before, token_id])
            assert shown == "a" + tokenizer.token_bytes(token_id).decode("utf-8", "replace")
    assert tokenizer.token_bytes(10**6) == b""


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_in_the_middle_has_the_bytes_of_its_tokens(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    for text in ("hello", " world", '": "', "é日", "\n  x", "<|im_end|>"):
        assert b"".join(map(tokenizer.token_bytes, tokenizer.encode_inside(text))) == text.encode()
