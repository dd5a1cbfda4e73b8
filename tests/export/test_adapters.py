"""An adapter merged into its base and exported: the decoder computes PEFT's own forward of the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from doge_export.commands.export import main
from doge_export.export import ExportOptions
from doge_export.runtime.decoder import Decoder
from tests.helpers.adapters import IDS, llama_base, logits, lora_config, save_random_adapter
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


def test_the_folder_is_named_after_base_and_adapter() -> None:
    options = ExportOptions("smollm2-135m", adapter="owner/legal-lora")
    assert options.default_name == "smollm2-135m-legal-lora-int8"
