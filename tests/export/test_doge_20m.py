"""The exported Doge-20M that belongs to the repository is as its README says, and talks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import doge_export
from doge_export.evaluation.perplexity import DecoderScorer, perplexity
from doge_export.export.integrity import check_integrity
from doge_export.runtime.model import Model
from doge_model import PRESETS

pytestmark = pytest.mark.slow

FOLDER = Path("checkpoints/doge-20m-10min-int8")
STORIES = Path("checkpoints/doge-tiny/held_out.txt")


@pytest.fixture(scope="module")
def model() -> doge_export.Model:
    return doge_export.load(FOLDER)


def test_it_has_the_real_dimensions_and_fits_sixteen_megabytes() -> None:
    config, size = json.loads((FOLDER / "config.json").read_text()), PRESETS["Doge-20M"]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    assert [config[name] for name in names] == [vars(size)[name] for name in names]
    assert config["vocab_size"] == 32768
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 16e6


def test_its_report_and_its_page_tell_of_the_files_that_lie_there() -> None:
    sizes = json.loads((FOLDER / "export_report.json").read_text())["files"]
    rows = re.findall(
        r"<code>([\w./]+)</code></td><td class=\"number\">([\d,]+) bytes", (FOLDER / "export_report.html").read_text()
    )
    assert {name: int(size.replace(",", "")) for name, size in rows} == sizes
    assert check_integrity(FOLDER) == len(sizes)


def test_the_perplexity_of_held_out_stories_is_the_one_in_its_readme(model: Model) -> None:
    (stated,) = re.findall(r"perplexity of this folder \| ([\d.]+)", (FOLDER / "README.md").read_text())
    ids = model.tokenizer.encode(STORIES.read_text(encoding="utf-8"))
    assert perplexity(DecoderScorer(model.decoder), ids).per_token == pytest.approx(float(stated), rel=0.02)


def test_it_answers_questions_in_its_chat_template(model: Model) -> None:
    question = {"role": "user", "content": "What is the capital of France?"}
    answer = model.chat([question], max_new_tokens=40, temperature=0).text
    assert answer.startswith("The capital of France is ")
    assert answer.endswith(".")
