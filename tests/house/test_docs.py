"""The documents agree with the code."""

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
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.state import State
from doge_model import PRESETS, preset_config

ROOT = Path(__file__).parents[2]


def test_the_readme_starts_with_the_two_commands() -> None:
    first = (ROOT / "README.md").read_text().splitlines()[:25]
    assert any("make demo" in line for line in first)
    assert any("make test" in line for line in first)


def tree(page: str, heading: str) -> set[str]:
    """Paths of the tree below a heading, folders with a slash; indentation says what a name lies in."""
    block = (ROOT / page).read_text().split(f"{heading}\n")[1]
    paths, above = set(), dict[int, str]()
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent < 4:
            continue
        folder = "".join(above[level] for level in sorted(above) if level < indent)
        names = re.findall(r"[\w.-]+/(?=\s|$)|[\w./-]+\.(?:py|jinja)\b", line)
        if names and names[0].endswith("/"):
            above = {level: name for level, name in above.items() if level < indent} | {indent: names[0]}
            folder += names.pop(0)
            paths.add(folder)
        paths |= {folder + name for name in names}
    return paths


@pytest.mark.parametrize("package", ["doge_common", "doge_model", "doge_export", "train"])
def test_every_module_stands_in_its_folder_of_the_page(package: str) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("[a-z]*.py")}
    shown = {path for path in tree("docs/modules.md", "# Every module") if path.endswith(".py")}
    assert {path for path in shown if path.startswith(f"{package}/")} == modules


def test_the_readme_s_tree_has_every_room_and_nothing_else() -> None:
    folders = {path for path in tree("README.md", "## Where things are") if path.endswith("/")}
    rooms = {f"doge_export/{path.parent.name}/" for path in (ROOT / "doge_export").glob("*/__init__.py")}
    assert rooms | {"doge_model/", "train/", "doge_export/", "tests/", "benchmarks/"} <= folders
    assert not [path for path in folders if not (ROOT / path).is_dir()]


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


def test_every_generation_option_stands_in_its_page_with_its_default() -> None:
    page = (ROOT / "docs" / "generation.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.MULTILINE))
    assert rows == {name: str(default) for name, default in vars(GenerationOptions()).items()}


def test_the_changelog_knows_the_version() -> None:
    assert f"## {doge_export.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_the_runtime_imports_neither_torch_nor_transformers_nor_onnx() -> None:
    code = (
        "import sys\n"
        "for name in ('doge_model', 'torch', 'transformers', 'onnx', 'huggingface_hub', 'lm_eval'):\n"
        "    sys.modules[name] = None\n"
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


def test_texts_that_a_page_measures_on_are_written_by_a_command_before() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        text = page.read_text()
        for found in re.finditer(r"^ {4}.*--texts (\S+)", text, re.MULTILINE):
            assert f"> {found[1]}\n" in text[: found.start()], (
                f"{page.name} measures on {found[1]}, which nothing writes"
            )
