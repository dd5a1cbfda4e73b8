"""An export loads: settings, tokenizers and templates that the runtime refuses are refused before anything is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from transformers import AddedToken

import doge_export
from doge_export.commands.export import main
from doge_model.checkpoint import load_tokenizer
from tests.helpers.checkpoints import byte_vocabulary, save_doge, save_tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny checkpoint with its tokenizer."""
    folder = tmp_path / "tiny"
    save_doge(folder, vocab_size=len(byte_vocabulary()))
    save_tokenizer(folder)
    return folder


def run(checkpoint: Path, *arguments: str) -> Result:
    out = checkpoint.parent / "out"
    return CliRunner().invoke(main, [str(checkpoint), str(out), "--report-tokens", "0", *arguments])


def assert_refused_early(result: Result, folder: Path, message: str) -> None:
    assert (result.exit_code, result.stderr.count("Error: ")) == (1, 1)
    assert message in result.stderr.splitlines()[-1]
    assert "building" not in result.stderr
    assert [path.name for path in folder.iterdir()] == ["tiny"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no penalty at all": ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    "no nucleus": ({"top_p": 0.0, "do_sample": True}, "top_p is 0.0"),
    "an end that is no token": ({"eos_token_id": -1}, "eos_token_id is "),
    "a number to stop at": ({"stop_strings": 5}, "stop is 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_would_not_load_are_refused_before_anything_is_built(case: str, checkpoint: Path) -> None:
    settings, message = REFUSED[case]
    (checkpoint / "generation_config.json").write_text(json.dumps(settings))
    result = run(checkpoint)
    assert_refused_early(result, checkpoint.parent, message)
    assert f"an export of {checkpoint} would not load: generation_config.json" in result.stderr
    assert ".partial" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"top_k": 50.0, "do_sample": True}, {"temperature": 0.7}, {"top_k": 7}])
def test_settings_are_refused_or_the_export_loads(settings: dict[str, Any], checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps(settings))
    result = run(checkpoint)
    if "top_k" in settings and result.exit_code == 1:
        assert_refused_early(result, checkpoint.parent, "top_k is 50.0")
    else:
        assert result.exit_code == 0, result.output
        model = doge_export.load(checkpoint.parent / "out")
        assert model.options().temperature == (1.0 if settings.get("do_sample") else 0.0)
        written = json.loads((checkpoint.parent / "out" / "generation_config.json").read_text())
        assert settings.items() <= written.items()


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(checkpoint: Path) -> None:
    tokenizer = save_tokenizer(checkpoint)
    tokenizer.add_tokens([AddedToken("<extra>")])
    tokenizer.save_pretrained(checkpoint)
    rows = len(byte_vocabulary())
    message = f"has '<extra>' as token {rows}, but the model embeds 0 to {rows - 1}"
    assert_refused_early(run(checkpoint, "--keep-window", "16"), checkpoint.parent, message)


def test_a_model_that_embeds_more_than_the_tokenizer_has_is_fine(checkpoint: Path) -> None:
    save_doge(checkpoint, vocab_size=len(byte_vocabulary()) + 7)
    result = run(checkpoint)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages | no_such_filter }}"])
def test_a_chat_template_that_is_not_valid_is_refused(template: str, checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text(template)
    assert_refused_early(run(checkpoint), checkpoint.parent, "chat template")


def test_a_tokenizer_that_the_runtime_cannot_read_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(text: str) -> None:
        raise Exception("data did not match any variant")

    monkeypatch.setattr("tokenizers.Tokenizer.from_str", unreadable)
    assert_refused_early(run(checkpoint), checkpoint.parent, "data did not match any variant")


def test_the_tokenizer_pads_on_the_left_as_a_pipeline_of_transformers_needs_it(checkpoint: Path) -> None:
    settings = checkpoint / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"padding_side": "right"}))
    assert run(checkpoint).exit_code == 0
    written = json.loads((checkpoint.parent / "out" / "tokenizer_config.json").read_text())
    assert written["padding_side"] == "left"


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id", "forced_eos_token_id"])
def test_special_ids_beyond_the_vocabulary_are_refused_before_anything_is_built(name: str, checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({name: 99_999}))
    message = f"{name} of {checkpoint} is 99999; it must be from 0 to {len(byte_vocabulary()) - 1}, the model's tokens"
    assert_refused_early(run(checkpoint), checkpoint.parent, message)


def test_a_padding_id_below_zero_stands_for_none(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"pad_token_id": -1, "eos_token_id": 2}))
    assert run(checkpoint).exit_code == 0
    assert json.loads((checkpoint.parent / "out" / "genai_config.json").read_text())["model"]["pad_token_id"] == 2


def test_the_ends_of_a_turn_stand_in_the_files_that_other_runtimes_read(checkpoint: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer is not None
    vocabulary = tokenizer.get_vocab()
    special = [token for token in tokenizer.all_special_tokens if token != tokenizer.eos_token]
    (checkpoint / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}" + special[0] + "{% endfor %}"
    )
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert run(checkpoint).exit_code == 0
    out = checkpoint.parent / "out"
    ends = [7, vocabulary[special[0]], vocabulary[tokenizer.eos_token]]
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == ends
    assert json.loads((out / "genai_config.json").read_text())["model"]["eos_token_id"] == ends
    assert doge_export.load(out).turn_ends == set(ends)


def test_a_warning_of_unused_settings_names_the_checkpoint(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"num_beams": 4}))
    with pytest.warns(UserWarning, match=r"sets num_beams") as caught:
        run(checkpoint)
    assert [str(each.message).split(" sets")[0] for each in caught] == [f"{checkpoint}/generation_config.json"]
