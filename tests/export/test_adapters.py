"""An adapter merged into its base and exported: the decoder computes PEFT's own forward of the base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from doge_export.commands.export import main
from doge_export.export import ExportOptions
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.operators import LIBRARY
from tests.helpers.adapters import IDS, doge_of, llama_base, logits, lora_config, save_random_adapter
from tests.helpers.models import feed, relative_difference

QUICK = ["--fp32", "--report-tokens", "0"]


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """PEFT's model of an adapter with a head of its own; the working folder has the adapter and its base."""
    monkeypatch.chdir(tmp_path)
    llama = llama_base(tmp_path / "base", tie_word_embeddings=True)
    config = lora_config(modules_to_save=["lm_head"])
    return save_random_adapter(llama, tmp_path / "legal", tmp_path / "base", config)


def run(*words: str) -> Any:
    return CliRunner().invoke(main, [*words, *QUICK])


@pytest.mark.parametrize("words", [["legal"], ["base", "--adapter", "legal"]], ids=["by its name", "given"])
def test_an_exported_adapter_computes_what_peft_computes(words: list[str], adapter: Any, tmp_path: Path) -> None:
    done = run(*words)
    assert done.exit_code == 0, done.output
    folder = tmp_path / ("-".join(word for word in words if word != "--adapter") + "-fp32")
    ours = feed(Decoder(folder, threads=1), IDS, [len(IDS)])
    assert relative_difference(logits(adapter), ours) < 1e-4
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_report_and_the_card_name_the_adapter(adapter: Any, tmp_path: Path) -> None:
    done = run("base", "--adapter", "legal")
    assert "adapter                   legal, merged in float32" in done.output
    report = json.loads((tmp_path / "base-legal-fp32" / "export_report.json").read_text())
    assert report["options"]["adapter"] == "legal"
    assert "base with the adapter legal as an ONNX decoder" in (tmp_path / "base-legal-fp32" / "README.md").read_text()


def test_several_adapters_to_merge_are_refused(adapter: Any) -> None:
    done = run("base", "--adapter", "legal", "--adapter", "legal")
    assert done.exit_code == 2
    assert "adapter is given 2 times; it must be given once" in done.output


def test_a_missing_adapter_is_one_sentence(adapter: Any) -> None:
    done = run("base", "--adapter", "nowhere")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("Error: there is no nowhere; give a folder")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("legal", "adapters is 'legal'; it must be NAME=DIR, as in --adapters legal=runs/legal"),
        ("legal=", "adapters is 'legal='; it must be NAME=DIR"),
        ("a/b=legal", "the adapter's name is 'a/b'; it must be letters"),
    ],
)
def test_a_word_that_names_no_adapter_is_refused(word: str, sentence: str, adapter: Any) -> None:
    done = run("base", "--adapters", word)
    assert done.exit_code == 2
    assert sentence in done.output


def test_a_name_is_given_once(adapter: Any) -> None:
    done = run("base", "--adapters", "a=legal", "--adapters", "a=legal")
    assert done.exit_code == 2
    assert "adapters names 'a' twice; give each adapter a name of its own" in done.output
    done = run("base", "--adapters", "a=legal", "--adapters", "A=legal")
    assert "adapters has 'a' and 'A', one file where case does not count; rename one" in done.output


def test_every_adapter_has_its_quality_and_verification_in_the_report(adapter: Any, tmp_path: Path) -> None:
    save_random_adapter(doge_of(tmp_path / "base").model, tmp_path / "thin", tmp_path / "base")
    words = ["base", "out", "--int8", "--report-tokens", "64", "--adapters", "thin=thin"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "adapter thin              rank 4, 0.0" in done.output
    (report,) = json.loads((tmp_path / "out" / "export_report.json").read_text())["adapters"]
    assert report["quality"]["tokens"] == 64
    assert report["verification"]["single_tokens"]["decided_top1"] > 0.9
    assert (report["standard_verification"] is not None) is LIBRARY.is_file()  # where DogeStep is the first one
    assert CliRunner().invoke(main, ["--check", "out"]).exit_code == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tokenizer: tokenizer.add_tokens(["<turn>"]), "has a vocabulary of its own, but beside a base"),
        (lambda tokenizer: setattr(tokenizer, "chat_template", "{{ messages }}"), "has a chat template of its own"),
        (lambda tokenizer: setattr(tokenizer, "eos_token", "b"), "has eos_token (b) of its own, but beside a base"),
        (lambda tokenizer: tokenizer.add_tokens(["b"], special_tokens=True), "has special tokens (b) of its own"),
        (lambda tokenizer: setattr(tokenizer, "pad_token", "b"), None),
        (lambda tokenizer: None, None),
    ],
    ids=["vocabulary", "template", "another end", "a special token", "another padding", "the same"],
)
def test_an_adapter_beside_its_base_reads_text_as_the_base_does(
    change: Callable[[Any], object], words: str | None, adapter: Any, tmp_path: Path
) -> None:
    save_random_adapter(doge_of(tmp_path / "base").model, tmp_path / "thin", tmp_path / "base")
    tokenizer = doge_of(tmp_path / "base").tokenizer
    change(tokenizer)
    assert tokenizer is not None
    tokenizer.save_pretrained(tmp_path / "thin")
    done = run("base", "out", "--adapters", "thin=thin")
    assert done.exit_code == (0 if words is None else 1), done.output
    assert words is None or words in done.output
    assert words is None or "or merge it: doge-export BASE --adapter DIR" in done.output


def test_answers_of_a_merged_adapter_end_where_its_own_tokenizer_ends(adapter: Any, tmp_path: Path) -> None:
    tokenizer = doge_of(tmp_path / "base").tokenizer
    assert tokenizer is not None
    tokenizer.eos_token = "b"
    tokenizer.save_pretrained(tmp_path / "legal")
    assert run("legal").exit_code == 0
    ends = json.loads((tmp_path / "legal-fp32" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("b") in ends


def test_the_folder_is_named_after_base_and_adapter() -> None:
    options = ExportOptions("smollm2-135m", adapter="owner/legal-lora")
    assert options.default_name == "smollm2-135m-legal-lora-int8"
