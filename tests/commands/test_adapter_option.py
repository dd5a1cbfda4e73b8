"""doge-eval and doge-bench with `--adapter NAME`: they measure base and adapter, named as a server names them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import doge_export
from doge_export.commands.bench import main as bench
from doge_export.commands.eval import main as evaluate
from doge_export.export import ExportOptions, export
from tests.helpers.adapters import doge_of, llama_base, save_random_adapter

TEXT = "Who pays the rent of an empty flat?"
QUICK = ["--prompt-tokens", "5", "--new-tokens", "3", "--rounds", "1", "--json"]
MORE: dict[str | None, list[str]] = {None: [], "legal": ["--adapter", "legal"]}
UNKNOWN = "adapter is 'no'; it must be one of the model's: legal"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, its export with an adapter, and a text."""
    folder = tmp_path_factory.mktemp("place")
    llama_base(folder / "base")
    save_random_adapter(doge_of(folder / "base").model, folder / "legal", folder / "base")
    adapters = {"legal": str(folder / "legal")}
    export(ExportOptions(str(folder / "base"), folder / "out", adapters=adapters, report_tokens=0, threads=1))
    (folder / "text").write_text(TEXT)
    return folder


def run(command: object, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])  # type: ignore[arg-type]  # of click


def test_perplexity_is_that_of_base_and_adapter(place: Path) -> None:
    words = [place / "out", "--perplexity", place / "text", "--json", "--journal", place / "journal"]
    found = {name: json.loads(run(evaluate, *words, *more).stdout) for name, more in MORE.items()}
    model = doge_export.load(place / "out", threads=1)
    ids = model.tokenizer.encode(TEXT)
    for name, result in found.items():
        rows = model.logits(ids, adapter=name)[:-1].astype(np.float64)
        losses = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(rows)), ids[1:]]
        assert result["perplexity"]["per_token"] == pytest.approx(np.exp(losses.mean()), rel=1e-4)
    assert found["legal"]["model"] == f"{place / 'out'}:legal"
    assert found["legal"]["model_hash"] != found[None]["model_hash"]


def test_the_speed_is_that_of_base_and_adapter(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doge_export.bench.measurement.STARTS", 1)  # a process takes a second
    done = run(bench, place / "out", *QUICK, "--adapter", "legal")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["model"] == f"{place / 'out'}:legal"
    assert result["kernels"] == doge_export.load(place / "out").with_adapter("legal").decoder.kernels
    assert result["decode_tokens_per_s"] > 0 and result["start_ms"] > 0


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        (bench, ["{out}", *QUICK, "--adapter", "no"], UNKNOWN),
        (bench, ["--random", "20m", "--adapter", "legal"], "--adapter goes with FOLDER and without --assistant"),
        (evaluate, ["{out}", "--perplexity", "{text}", "--adapter", "no"], UNKNOWN),
        (evaluate, ["{base}", "--perplexity", "{text}", "--adapter", "legal"], "base is no exported folder; give one"),
    ],
)
def test_adapters_that_are_not_there_are_refused_in_a_sentence(
    command: object, words: list[str], sentence: str, place: Path
) -> None:
    places = {name: place / name for name in ("base", "out", "text")}
    done = run(command, *[word.format(**places) for word in words])
    assert done.exit_code == 2, done.output
    assert sentence in done.stderr.splitlines()[-1]
