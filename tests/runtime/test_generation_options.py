from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import GenerationConfig

from doge_export.errors import OptionError, PackageError
from doge_export.runtime.generation_options import (
    SAME_FIELDS,
    UNUSED_FIELDS,
    UNUSED_SAMPLING_FIELDS,
    GenerationDefaults,
    GenerationOptions,
    GenerationOverrides,
)

# Fields of the cache, drafts, returned values, encoders and beams, and those that only guard against faults.
NO_EFFECT_ON_THE_ANSWER = set(
    """use_cache cache_implementation cache_config max_cache_len prefill_chunk_size compile_config disable_compile
    continuous_batching_config low_memory use_mtp is_assistant num_assistant_tokens num_assistant_tokens_schedule
    assistant_confidence_threshold max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind
    assistant_ensemble_weight speculation_type output_attentions output_hidden_states output_scores output_logits
    return_dict_in_generate pad_token_id bos_token_id eos_token_id encoder_repetition_penalty
    encoder_no_repeat_ngram_size decoder_start_token_id early_stopping length_penalty diversity_penalty
    renormalize_logits remove_invalid_values transformers_version""".split()  # noqa: SIM905  40 lines otherwise
)


def defaults_of(folder: Path, **generation_config: Any) -> GenerationDefaults:
    (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return GenerationDefaults.from_folder(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 1e-30),
        ("temperature", "0.8"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("top_k", 2.0),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", 0.5),
        ("stop", ""),
        ("stop", ["fine", ""]),
        ("stop", ["fine", 3]),
        ("ignore_eos", 1),
        ("min_new_tokens", -1),
        ("no_repeat_ngram_size", 2.0),
        ("suppress_tokens", 3),
        ("suppress_tokens", [True]),
        ("begin_suppress_tokens", [-1]),
        ("bad_words_ids", [1, 2]),
        ("bad_words_ids", [[]]),
        ("sequence_bias", [[1, 2.0]]),
        ("sequence_bias", [[[1], "2"]]),
        ("sequence_bias", [[[1], float("inf")]]),
        ("forced_eos_token_id", "</s>"),
        ("logit_bias", {"5": 1.0}),
        ("logit_bias", {5: float("nan")}),
        ("logit_bias", [5, 6]),
        ("presence_penalty", 2.5),
        ("frequency_penalty", "0.5"),
        ("logprobs", -1),
        ("logprobs", True),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_the_value_and_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"^{name} is .*; it must be .*[^.]$") as error:
        GenerationOptions(**{name: value})
    assert repr(value) in str(error.value) or name in ("bad_words_ids", "sequence_bias", "logit_bias")


def test_values_at_the_edge_of_what_is_allowed_are_taken() -> None:
    stop: Any = ["a"]
    options = GenerationOptions(max_new_tokens=1, temperature=0, top_p=1, top_k=0, min_p=1, stop=stop, seed=0)
    assert (options.temperature, options.stop) == (0.0, ("a",))


def test_numpy_numbers_become_plain_ones() -> None:
    given: dict[str, Any] = {"max_new_tokens": np.int64(5), "temperature": np.float32(0.5)}
    options = GenerationOptions(**given)
    assert type(options.max_new_tokens) is int and type(options.temperature) is float


def test_an_override_of_none_keeps_the_default() -> None:
    options = GenerationOptions(temperature=0.7).with_overrides({"temperature": None, "top_k": 0, "seed": 3})
    assert options == GenerationOptions(temperature=0.7, seed=3)


def test_lists_of_tokens_become_tuples() -> None:
    given: Any = {"bad_words_ids": [[1, np.int64(2)]], "sequence_bias": {(3,): -1}, "forced_eos_token_id": 4}
    options = GenerationOptions(**given)
    assert (options.bad_words_ids, options.sequence_bias) == (((1, 2),), (((3,), -1.0),))
    assert options.forced_eos_token_id == (4,) and type(options.bad_words_ids[0][1]) is int


def test_every_option_is_a_keyword_of_generate() -> None:
    assert set(GenerationOverrides.__annotations__) == set(vars(GenerationOptions()))


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'temprature'.*max_new_tokens, temperature"):
        GenerationOptions().with_overrides({"temprature": 1.0})  # type: ignore[typeddict-unknown-key]  # the mistake


def test_a_folder_without_generation_config_is_greedy_with_100_tokens_and_the_end_of_config_json(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    assert GenerationDefaults.from_folder(tmp_path) == GenerationDefaults(GenerationOptions(), frozenset({2}))


def test_an_empty_folder_has_no_end_of_sequence_token(tmp_path: Path) -> None:
    assert GenerationDefaults.from_folder(tmp_path).eos_token_ids == frozenset()


@pytest.mark.parametrize("do_sample", [{}, {"do_sample": False}, {"do_sample": None}])
def test_without_do_sample_the_answer_is_greedy_whatever_the_temperature(
    tmp_path: Path, do_sample: dict[str, Any]
) -> None:
    assert defaults_of(tmp_path, temperature=0.8, **do_sample).options.temperature == 0


def test_sampling_settings_are_taken_over(tmp_path: Path) -> None:
    given: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1}
    options = defaults_of(tmp_path, do_sample=True, max_new_tokens=9, stop_strings="END", **given).options
    assert options == GenerationOptions(max_new_tokens=9, stop=("END",), **given)


def test_settings_that_rule_tokens_out_are_taken_over(tmp_path: Path) -> None:
    given: Any = {
        "min_new_tokens": 2,
        "no_repeat_ngram_size": 3,
        "suppress_tokens": [4],
        "begin_suppress_tokens": [5, 6],
    }
    sequences: Any = {"bad_words_ids": [[7, 8]], "sequence_bias": [[[9], -2.5]], "forced_eos_token_id": 1}
    expected = GenerationOptions(
        **given, bad_words_ids=((7, 8),), sequence_bias=(((9,), -2.5),), forced_eos_token_id=(1,)
    )
    assert replace(defaults_of(tmp_path, **given, **sequences).options, top_k=0) == expected


def test_a_whole_number_may_be_written_as_a_float(tmp_path: Path) -> None:
    defaults = defaults_of(tmp_path, do_sample=True, top_k=50.0, max_new_tokens=7.0, eos_token_id=[2.0, 3])
    assert (defaults.options.top_k, defaults.options.max_new_tokens, defaults.eos_token_ids) == (
        50,
        7,
        frozenset({2, 3}),
    )
    with pytest.raises(PackageError, match=r"top_k is 0\.5; it must be a whole number"):
        defaults_of(tmp_path, top_k=0.5)


def test_settings_that_have_no_counterpart_are_named_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"generation_config\.json sets max_length and num_beams, which") as warned:
        defaults_of(tmp_path, max_length=30, num_beams=4, typical_p=0.5)
    assert len(warned) == 1


@pytest.mark.filterwarnings("error")
def test_settings_that_change_nothing_are_not_named(tmp_path: Path) -> None:
    defaults_of(tmp_path, max_length=20, num_beams=1, min_length=0, typical_p=1.0, do_sample=True, guidance_scale=None)
    defaults_of(tmp_path, max_length=4096, max_new_tokens=100)


def test_every_setting_of_transformers_that_could_change_an_answer_is_known() -> None:
    known = {*SAME_FIELDS, *UNUSED_FIELDS, *UNUSED_SAMPLING_FIELDS, "temperature", "do_sample", "stop_strings"}
    unknown = set(vars(GenerationConfig())) - known - NO_EFFECT_ON_THE_ANSWER
    assert not {name for name in unknown if not name.startswith("_")}


def test_what_the_file_leaves_open_is_as_transformers_has_it(tmp_path: Path) -> None:
    theirs = GenerationConfig._get_default_generation_params()
    options = defaults_of(tmp_path, do_sample=True, top_k=None).options
    for name in ("temperature", "top_p", "top_k", "repetition_penalty"):
        assert vars(options)[name] == theirs[name]


@pytest.mark.parametrize(("value", "ids"), [(2, {2}), ([2, 7], {2, 7}), (None, set())])
def test_the_end_of_sequence_is_one_token_or_several_or_none(tmp_path: Path, value: object, ids: set[int]) -> None:
    assert defaults_of(tmp_path, eos_token_id=value).eos_token_ids == ids


@pytest.mark.parametrize("config", [{"eos_token_id": "</s>"}, {"eos_token_id": [-1]}, {"top_p": 3.0}])
def test_a_file_with_values_that_are_not_allowed_is_a_damaged_package(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(PackageError, match=rf"generation_config\.json.*{next(iter(config))}"):
        defaults_of(tmp_path, **config)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_file_that_is_no_json_object_is_a_damaged_package(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PackageError, match="export the model again"):
        GenerationDefaults.from_folder(tmp_path)
