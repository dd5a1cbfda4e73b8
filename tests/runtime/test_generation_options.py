from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import GenerationConfig

from doge_export.errors import OptionError, PackageError
from doge_export.runtime.generation_options import GenerationDefaults, GenerationOptions


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
        ("stop", "a plain string"),
        ("stop", ["fine", ""]),
        ("stop", ["fine", 3]),
        ("ignore_eos", 1),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_the_value_and_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"^{name} is .* must be .*\.$") as error:
        GenerationOptions(**{name: value})
    assert repr(value) in str(error.value)


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
