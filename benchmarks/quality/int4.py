"""How much do 4 bits cost, beside llama.cpp's files of the very same model?

    python -m benchmarks.quality.rotated_demo rotated --gguf
    python -m benchmarks.quality.int4 rotated

Exports MODEL in fp32, int8 and int4, and measures the perplexity of a text that nothing was calibrated on. Where the
folder MODEL holds a .gguf file and llama-cpp-python is installed, its Q8_0 and Q4_K_M are measured too. Windows are of
1,024 tokens, half of each scored. Differences of the mean are between the same tokens, with their standard error over
windows. The rotated demo's weights lie on no grid, so no file has an advantage.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import options
from benchmarks.common.contenders import LLAMA, installed
from benchmarks.common.llama import requantize
from benchmarks.common.results import Result, announce, finish
from doge_export.evaluation.perplexity import (
    DecoderScorer,
    Perplexity,
    Scorer,
    WindowScore,
    perplexity,
    ratio_stderr,
)
from doge_export.export.pipeline import export
from doge_export.options import ExportOptions
from doge_export.places import REPORT_FILE
from doge_export.runtime.decoder import Decoder
from doge_export.texts.token_ids import TEXT_FILE

from .llama_scorer import LlamaScorer
from .texts import read_text, token_ids

WINDOW, STRIDE = 1024, 512  # tokens
PEERS = ("Q8_0", "Q4_K_M")
Rows = dict[str, tuple[int, Perplexity]]  # bytes and result of each file


@click.command()
@click.argument("model")
@click.option("--text", type=click.Path(exists=True, path_type=Path), default=TEXT_FILE, help="Held out; may be .xz.")
@click.option("--tokens", default=16384, show_default=True, help="Of the text, from its beginning.")
@click.option("--bits", type=float, help="Of int4, as in doge-export.")
@click.option("--calibration", help="Of int4, as in doge-export.")
@click.option("--calibration-tokens", type=int, help="Of int4, as in doge-export.")
@options.threads
@click.option("--folders", type=click.Path(path_type=Path), help="Keeps the exports, and takes those that are there.")
@options.json_file
def main(
    model: str,
    text: Path,
    tokens: int,
    bits: float | None,
    calibration: str | None,
    calibration_tokens: int | None,
    threads: int,
    folders: Path | None,
    out: Path | None,
) -> None:
    """Compare the files of MODEL."""
    announce()
    with tempfile.TemporaryDirectory() as temporary:
        root = folders or Path(temporary)
        root.mkdir(exist_ok=True)
        exports = {name: plain_options(model, root / name, name) for name in ("fp32", "int8")}
        exports["int4"] = plain_options(
            model, root / "int4", "int4", bits=bits, calibration=calibration, calibration_tokens=calibration_tokens
        )
        for recipe in exports.values():
            if not (recipe.folder / REPORT_FILE).is_file():
                export(recipe, lambda step: click.echo(step, err=True))
        ids = token_ids(exports["fp32"].folder, read_text(text))[:tokens]
        rows = {name: measure_folder(recipe.folder, ids, threads) for name, recipe in exports.items()}
        for name, path in peer_files(Path(model), root).items():
            rows[name] = path.stat().st_size, measured(LlamaScorer(path, threads, WINDOW), ids)
    finish({"text": f"{text.name}, {len(ids)} tokens", "threads": threads} | compare(rows), out)


def plain_options(model: str, folder: Path, weights: str, **rounding: float | str | None) -> ExportOptions:
    """An export that replaces an earlier one and measures nothing by itself."""
    return ExportOptions(model, folder, weights, overwrite=True, report_tokens=0, **rounding)  # type: ignore[arg-type]  # its callers name fields


def measure_folder(folder: Path, ids: NDArray[np.int64], threads: int) -> tuple[int, Perplexity]:
    """Bytes of an exported folder, and the perplexity of its decoder."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return size, measured(DecoderScorer(Decoder(folder, threads)), ids)


def measured(scorer: Scorer, ids: NDArray[np.int64]) -> Perplexity:
    """Perplexity in the windows that all share."""
    return perplexity(scorer, ids, window=WINDOW, stride=STRIDE)


def peer_files(model: Path, root: Path) -> dict[str, Path]:
    """llama.cpp's own quantizations of the model's .gguf file; none without that file or without llama.cpp."""
    source = next(model.glob("*.gguf"), None) if model.is_dir() else None
    if source is None or not installed(LLAMA):
        return {}
    files = {kind: root / f"{kind}.gguf" for kind in PEERS}
    for kind, path in files.items():
        if not path.is_file():
            requantize(source, kind, path)
    return files


def compare(rows: Rows) -> Result:
    """Print a table of all files; the same as a result by their names."""
    click.echo(f"{'file':<8}{'MB':>8}{'perplexity':>12}{'change':>18}")
    found = {}
    for name, (size, result) in rows.items():
        change, error = paired_change(rows["fp32"][1], result)
        spread = "" if error is None else f" ± {error:.2%}"
        click.echo(f"{name:<8}{size / 1e6:8.1f}{result.per_token:12.3f}{change:+11.2%}{spread}")
        found[name] = {"bytes": size, "perplexity": result.per_token, "change": change, "change_stderr": error}
    return found


def paired_change(base: Perplexity, other: Perplexity) -> tuple[float, float | None]:
    """Relative change of perplexity and its standard error, from the windows' differences; None for one window."""
    differences = [
        WindowScore(a.start, a.tokens, b.negative_log_likelihood - a.negative_log_likelihood)
        for a, b in zip(base.windows, other.windows, strict=True)
    ]
    return other.per_token / base.per_token - 1, ratio_stderr(differences)


if __name__ == "__main__":
    main()
