"""The options of a conversation: the user's, else the folder's, else those that keep a small model from looping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from doge_export.commands import chat
from doge_export.runtime.generation_options import GenerationDefaults, GenerationOptions, GenerationOverrides
from doge_export.talk.defaults import LONGEST, SAMPLING, with_defaults
from tests.helpers.fakes import model_saying


def folder_stating(folder: Path, **fields: Any) -> GenerationDefaults:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "use_cache": True} | fields))
    return GenerationDefaults.from_folder(folder)


def test_a_folder_without_settings_samples_and_lets_an_answer_end_by_itself(tmp_path: Path) -> None:
    assert with_defaults({"seed": None}, folder_stating(tmp_path, temperature=None)) == {**SAMPLING, **LONGEST}


@pytest.mark.parametrize("given", [{"temperature": 1.5}, {"top_k": 0}, {"repetition_penalty": 1.2, "seed": 3}])
def test_a_given_option_replaces_its_own_default_alone(tmp_path: Path, given: GenerationOverrides) -> None:
    assert with_defaults(given, folder_stating(tmp_path)) == {**SAMPLING, **LONGEST, **given}


def test_greedy_is_exact(tmp_path: Path) -> None:
    found = with_defaults({"temperature": 0.0}, folder_stating(tmp_path))
    assert GenerationOptions().with_overrides(found) == GenerationOptions(max_new_tokens=LONGEST["max_new_tokens"] or 0)


@pytest.mark.parametrize("stated", [{"do_sample": False}, {"do_sample": True}, {"temperature": 1}, {"min_p": 0.1}])
def test_a_folder_that_states_some_sampling_keeps_it(tmp_path: Path, stated: dict[str, Any]) -> None:
    assert with_defaults({}, folder_stating(tmp_path, **stated)) == LONGEST
    assert with_defaults({}, folder_stating(tmp_path, **stated, max_new_tokens=9)) == {}


def test_a_folder_that_states_a_length_keeps_it(tmp_path: Path) -> None:
    assert with_defaults({}, folder_stating(tmp_path, max_new_tokens=9)) == SAMPLING


def test_the_command_talks_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_saying("Hello!")
    seen: list[GenerationOverrides] = []

    def noting(**given: Any) -> GenerationOptions:
        seen.append(cast(GenerationOverrides, given))
        return GenerationOptions()

    monkeypatch.setattr(model, "options", noting)
    monkeypatch.setattr(chat, "load", lambda *_, **__: model)
    CliRunner().invoke(chat.main, [str(tmp_path), "--prompt", "Hi", "--top-p", "0.3"])
    assert seen == [{**SAMPLING, **LONGEST, "top_p": 0.3}]
