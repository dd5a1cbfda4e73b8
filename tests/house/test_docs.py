"""The documents say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import doge_export
from doge_export.graph import Dimensions
from doge_export.runtime.description import DecoderDescription
from doge_export.runtime.state import State
from doge_model import PRESETS, preset_config

ROOT = Path(__file__).parents[2]


def test_the_readme_starts_with_the_two_commands() -> None:
    first = (ROOT / "README.md").read_text().splitlines()[:25]
    assert any("make demo" in line for line in first)
    assert any("make test" in line for line in first)


def test_every_module_stands_in_the_readme_s_tree() -> None:
    readme = (ROOT / "README.md").read_text()
    for package in (
        "doge_model",
        "doge_export",
        "doge_export/runtime",
        "doge_export/evaluation",
        "doge_export/bench",
        "train",
    ):
        for path in (ROOT / package).glob("[a-z]*.py"):
            assert path.name in readme, f"{path} is missing from the README's tree"


def test_every_file_in_the_readme_s_tree_exists() -> None:
    tree = (ROOT / "README.md").read_text().split("## Where things are")[1].split("## Exporting")[0]
    known = {path.name for path in ROOT.rglob("*") if ".venv" not in path.parts}
    for name in re.findall(r"[a-z_0-9]+\.(?:py|md)\b", tree):
        assert name in known, f"the README's tree has {name}"


@pytest.mark.parametrize("size", PRESETS)
def test_the_sizes_of_states_are_those_of_the_table(size: Any) -> None:
    layout = Dimensions.from_config(preset_config(size), has_mask=True)
    description = DecoderDescription(
        format_version=4,
        vocab_size=layout.vocab_size,
        keep_window_size=layout.keep_window_size,
        num_layers=layout.num_layers,
        num_kv_heads=layout.num_kv_heads,
        num_recurrent_heads=layout.num_kv_heads,
        channels=layout.channels,
        head_dim=layout.head_dim,
        mask_channels=layout.mask_channels,
        weights_sha256="",
    )
    rows = [line for line in (ROOT / "docs" / "state.md").read_text().splitlines() if line.startswith("| Doge")]
    row = next(line for line in rows if size in re.split(r"[|,]\s*|\s+\|", line))
    assert f"{State(description).cache.nbytes:,}" in row


def test_the_changelog_knows_the_version() -> None:
    assert f"## {doge_export.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_runtime_imports_neither_torch_nor_transformers_nor_onnx() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'huggingface_hub', 'lm_eval'): sys.modules[name] = None\n"
        "import doge_export, doge_export.commands.chat, doge_export.commands.export, doge_export.commands.eval"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_decoder_can_be_driven_with_onnxruntime_alone(demo_folders: dict[str, Path]) -> None:
    folder = demo_folders["fp32"]
    model = doge_export.load(folder)
    ids = model.tokenizer.encode("The capital of Germany is")
    command = [sys.executable, str(ROOT / "examples" / "onnxruntime_only.py"), str(folder), *map(str, ids)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(model.generate(ids, max_new_tokens=10, ignore_eos=True).token_ids)
