"""Schemas as llguidance is given them: each answer by them is valid, and common ones are taken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from doge_export.errors import OptionError
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from doge_export.runtime.number_bounds import include_bounds
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, random_table
from tests.helpers.schemas import allows, is_valid


def any_model() -> Model:
    """A model whose tokens are bytes."""
    return Model(BigramDecoder(random_table(259)), byte_level_tokenizer())


ESCAPED: Any = [
    ({"properties": {"名前": {"type": "integer"}}}, r'{"\u540d\u524d": "a"}', '{"名前": 1, "名": "a", "\\n": 2}'),
    ({"properties": {"a": {"type": "integer"}}}, r'{"\u0061": "a"}', '{"b": "a"}'),
    ({"properties": {"ab": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
     r'{"\u0061b": "a"}', '{"ab": 1, "": "", "a": "a", "abc": "a", "ac": "a", "\\n": "a"}'),
    ({"allOf": [{"properties": {"a": {"type": "integer"}}}, {"additionalProperties": {"type": ["string", "integer"]}}]},
     r'{"\u0061": "a"}', '{"b": "a"}'),
    ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "additionalProperties": {"type": "string"},
      "properties": {"a": {"type": "integer"}, "b": {}}}, r'{"b": 1, "\u0061": "a"}', '{"a": 1, "b": 2, "c": "a"}'),
    ({"$ref": "#/x/0", "x": [{"properties": {"a": {"type": "integer"}}}]}, r'{"\u0061": "a"}', '{"b": "a"}'),
]  # fmt: skip
ESCAPED += [
    ({"properties": {'"': {"type": "integer"}}, **others}, r'{"\"": "a"}', r'{"\"": 1, "b": "a"}')
    for others in ({}, {"additionalProperties": {"type": ["string", "integer"]}})
]


@pytest.mark.parametrize(("schema", "wrong", "right"), ESCAPED, ids=str)
def test_an_escaped_key_is_no_other_key(schema: Any, wrong: str, right: str) -> None:
    model = any_model()
    assert not is_valid(wrong, schema) and not allows(model, schema, wrong)
    assert is_valid(right, schema) and allows(model, schema, right)


@pytest.mark.parametrize("others", [{}, {"additionalProperties": True}, {"additionalProperties": {"type": "integer"}}])
def test_patterns_of_keys_beside_other_keys_are_refused(others: Any) -> None:
    schema: Any = {"patternProperties": {"^a": {"type": "integer"}}, **others}
    with pytest.raises(OptionError, match="give additionalProperties of false beside them"):
        GenerationOptions(json_schema=schema)


ROUNDED: Any = [
    ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, ["0.99999999999999999999", "0", "1"], ["0.5", "0.9", "0.99"]),
    ({"exclusiveMinimum": 3}, ["3.00000000000000000000001", "3.0", "3"], ["3.5", "4", "3.00000001", "1234567"]),
    ({"exclusiveMinimum": 0}, [f"0.{'0' * 400}1", "-0"], ["0.1", "0.0000001"]),
    ({"exclusiveMaximum": -5}, ["-5.0000000000000000001", "-5"], ["-5.5", "-6"]),
    ({"minimum": 3, "exclusiveMaximum": 4}, ["3.9999999999999999999"], ["3", "3.0", "3.99"]),
    ({"minimum": 0.30000000000000004}, ["0.3", "0.2999"], ["0.31", "1"]),
    ({"minimum": 0.1, "maximum": 0.3}, ["0.09", "0.30000001"], ["0.1", "0.3", "0.100", "0.29999999999999999999"]),
    ({"exclusiveMinimum": -1, "exclusiveMaximum": 0.5}, ["-0.99999999999999999999"], ["-0.9", "-0.99", "0.4", "0.49"]),
    ({"allOf": [{"exclusiveMaximum": 6}, {"exclusiveMinimum": 5}]}, ["5.9999999999999999999"], ["5.1"]),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True},
     ["1.0000000000000000000001"], ["1.1"]),
]  # fmt: skip


@pytest.mark.parametrize(("bounds", "wrong", "right"), ROUNDED, ids=str)
def test_a_number_is_within_its_bounds_as_python_reads_it(bounds: Any, wrong: list[str], right: list[str]) -> None:
    model, schema = any_model(), {"type": "number", **bounds}
    assert not any(is_valid(text, schema) or allows(model, schema, text) for text in wrong)
    assert all(is_valid(text, schema) and allows(model, schema, text) for text in right)


def test_bounds_of_few_digits_that_may_be_reached_are_kept() -> None:
    for low in (0, -3, 0.1, 2**53, 1e-22, 123456789.125):
        schema: Any = {"minimum": low, "maximum": low}
        include_bounds(schema)
        assert schema == {"minimum": low, "maximum": low}


def test_additional_items_beside_prefix_items_change_nothing() -> None:
    model = any_model()
    schema = {"type": "array", "prefixItems": [{"type": "integer"}], "additionalItems": False, "maxItems": 2}
    assert not allows(model, schema, '["a"]')
    assert allows(model, schema, '[1, "a"]') and is_valid('[1, "a"]', schema)
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}], "type": "array"}
    assert allows(model, old, '[1, "a"]') and not allows(model, old | {"additionalItems": False}, '[1, "a"]')


def recursive_union(parts: int, fields: int) -> dict[str, Any]:
    """Objects of nullable fields, each with a child that is any of them."""
    text: Any = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    child = {"anyOf": [{"$ref": f"#/$defs/p{part}"} for part in range(parts)]}
    definitions = {}
    for part in range(parts):
        properties = {f"f{field}": text for field in range(fields)}
        properties = {"kind": {"const": part}, "child": child, **json.loads(json.dumps(properties))}
        definitions[f"p{part}"] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$defs": definitions, **child}


def test_large_unions_and_objects_are_taken() -> None:
    flat = {"type": "object", "properties": {f"f{field}": {"type": "string"} for field in range(4000)}}
    for schema in (recursive_union(15, 8), recursive_union(40, 10), flat):
        assert GenerationOptions(json_schema=json.dumps(schema)).json_schema
    start = '{"kind": 7, "child": {"kind": 2, "f3": null}}'
    assert allows(any_model(), recursive_union(40, 10), start)


READINGS: Any = [
    (r"^\W$", "é٣a_", "- "), (r"^\D$", "٣1", "é-a"), (r"^[^\w]$", "é٣a_", "-"), (r"^[^\d-]$", "٣1-", "aé"),
    (r"^\w$", "é-", "a_9"), (r"^[\W-]$", "éa", "-+"), (r"^[^\W]$", "é-", "a9"), (r"^\d$", "٣", "3"),
    (r"^\s$", "\x85\xa0", " \t"), (r"^\S$", "\x1c\xa0\ufeff\u2003 ", "aé"), (r"^[^\s\]]$", "\x1c\ufeff]", "aé"),
    ("(?i)^[^a-z]$", "İ\u0131\u017f\u212aaA", "é1"),
    (r"^.$", "\n\r\u2028", "aé."), (r"^[.]$", "a", "."), (r"^\.\\w$", "a", []), (r"^\[\w\]$", "a", ["[a]"]),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "wrong", "right"), READINGS)
def test_a_pattern_matches_what_python_and_javascript_match(pattern: str, wrong: str, right: Any) -> None:
    model, schema = any_model(), {"type": "string", "pattern": pattern}
    for text in wrong:
        assert not allows(model, schema, json.dumps(text, ensure_ascii=False))
    for text in right:
        written = json.dumps(text, ensure_ascii=False)
        assert allows(model, schema, written) and is_valid(written, schema)


@pytest.mark.parametrize("pattern", [r'^[^"]*$', r"^[^\\]+$", r"^[^ -~]+$", r'^[^\\/:*?"<>|]+$'])
def test_a_class_that_is_turned_round_has_no_signs_with_a_backslash(pattern: str) -> None:
    model, schema = any_model(), {"type": "string", "pattern": pattern}
    for text in (r'"\\""', r'"\\\\"'):
        assert is_valid(text, schema) or not allows(model, schema, text)
    assert allows(model, schema, '"é"')


@pytest.mark.parametrize("pattern", ["^a{2, 3}$", "^a{ 2}$", r"a\z", r"\Aa", r"\p{L}", r"[\x00-\x1f]", r"([^\"\0]|\0)"])
def test_patterns_that_not_all_read_alike_are_refused(pattern: str) -> None:
    with pytest.raises(OptionError, match="signs of repetition"):
        any_model().generate("a", json_schema={"type": "string", "pattern": pattern}, max_new_tokens=1)


def test_what_would_take_long_to_follow_is_refused() -> None:
    integer = {"type": "integer"}
    for schema in (
        {"properties": dict.fromkeys(["a" * 201], integer), "additionalProperties": integer},
        {"properties": {f"{i:0>40}": integer for i in range(600)}, "additionalProperties": integer},
        {"patternProperties": {f"^{i}$": integer for i in range(101)}, "additionalProperties": False},
        {"type": "number", "multipleOf": 10**7},
    ):
        with pytest.raises(OptionError, match="at most"):
            any_model().generate("a", json_schema=schema, max_new_tokens=1)


def test_keywords_that_ask_for_nothing_are_taken() -> None:
    items = {"anyOf": [{"type": "string", "format": "password"}, {"type": "integer", "format": "int64"}]}
    schema = {"type": "array", "uniqueItems": False, "items": items}
    assert allows(any_model(), schema, '["a", "a", 1, 1]')


def test_a_multiple_of_a_fraction_is_one_as_python_reads_it() -> None:
    model, schema = any_model(), {"type": "number", "multipleOf": 2.5}
    assert not is_valid("4727183366253597.5", schema) and not allows(model, schema, "4727183366253597.5")
    assert allows(model, schema, "1227183366253597.5") and allows(model, schema, "-5")


def test_names_of_properties_from_a_list_or_any_are_followed() -> None:
    model, values = any_model(), {"type": "object", "additionalProperties": {"type": "integer"}}
    listed, defined = {"enum": ["x", "y"], "type": "string"}, {"$ref": "#/$defs/N"}
    for schema in (values | {"propertyNames": listed}, values | {"propertyNames": defined, "$defs": {"N": listed}}):
        assert allows(model, schema, '{"x": 1, "y": 2}') and is_valid('{"x": 1, "y": 2}', schema)
        assert not allows(model, schema, '{"z": 1}') and not allows(model, schema, '{"x": "a"}')
    assert allows(model, values | {"propertyNames": {"type": "string"}}, '{"any": 1}')
    for names in ({"enum": ["a"], "minLength": 2}, {"maxLength": 3}, {"type": "integer"}):
        with pytest.raises(OptionError, match="propertyNames"):
            any_model().generate("a", json_schema=values | {"propertyNames": names}, max_new_tokens=1)


def test_formats_of_zod_leave_their_pattern() -> None:
    schema = {"type": "string", "format": "starts_with", "pattern": "^ab.*"}
    assert allows(any_model(), schema, '"abc"') and not allows(any_model(), schema, '"b"')


def test_a_step_of_a_float_stays_where_binary_numbers_are_exact() -> None:
    model, schema = any_model(), {"type": "number", "multipleOf": 3.0}
    assert not is_valid("9751183089080553", schema) and not allows(model, schema, "9751183089080553")
    assert allows(model, schema, "999999999999") and allows(model, schema, "-3")


@pytest.mark.parametrize("bounds", [{"maximum": 10**15}, {"minimum": -5}, {"allOf": [{"maximum": 10**6}]}])
def test_a_large_step_within_bounds_is_refused_before_an_answer(bounds: Any) -> None:
    with pytest.raises(OptionError, match="multipleOf of 65536 within bounds"):
        GenerationOptions(json_schema=json.dumps({"type": "integer", "multipleOf": 65536, **bounds}))
    assert GenerationOptions(json_schema='{"type": "integer", "multipleOf": 65536, "minimum": 0}').json_schema


def test_a_step_of_many_digits_in_decimals_is_refused_without_a_word_of_bounds() -> None:
    with pytest.raises(OptionError, match=r"multipleOf of 501\.5; give at most 5000, or in decimals as few digits"):
        GenerationOptions(json_schema='{"type": "number", "multipleOf": 501.5}')


def test_a_reference_into_data_is_refused() -> None:
    into_data: Any = ({"$ref": "#/enum/0", "enum": [{}]}, {"$ref": "#/a/const", "a": {"const": {}}})
    for schema in into_data:
        with pytest.raises(OptionError, match="points into data"):
            GenerationOptions(json_schema=schema)
    assert GenerationOptions(json_schema='{"$ref": "#/$defs/enum", "$defs": {"enum": {}}}').json_schema
