"""What 4 bits cost on weights that lie on no grid, beside llama.cpp's files of the very same model.

    python benchmarks/rotated_demo.py rotated --gguf
    python benchmarks/int4.py rotated

Exports MODEL in fp32, int8 and int4, measures the perplexity of a text that nothing was calibrated on, and where the
folder holds a .gguf file and llama-cpp-python is installed, that of its Q8_0 and Q4_K_M. Perplexity is of windows of
1,024 tokens, half of each scored. Differences of the mean are between the same tokens, with their standard error over
windows. The last line is a JSON object.
"""

from __future__ import annotations

import json
import lzma
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from doge_export.evaluation.perplexity import (
    DecoderScorer,
    Perplexity,
    Scorer,
    WindowScore,
    perplexity,
    ratio_stderr,
    token_log_probs,
)
from doge_export.export.pipeline import export
from doge_export.options import ExportOptions
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llama_cpp

WINDOW, STRIDE = 1024, 512
ALICE = Path(__file__).parents[1] / "doge_export" / "texts" / "alice.txt"
PEERS = {"Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "Q4_K_M": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}


class LlamaScorer:
    """Scores by llama.cpp."""

    longest = WINDOW

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp  # noqa: PLC0415 - the peers are optional

        self._llama: llama_cpp.Llama = llama_cpp.Llama(
            str(path), n_ctx=WINDOW, n_batch=WINDOW, logits_all=True, n_threads=threads, verbose=False
        )

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """See `perplexity.Scorer`."""
        self._llama.reset()
        self._llama.eval(token_ids[:-1].tolist())
        rows = np.array(self._llama.scores[len(token_ids) - 1 - count : len(token_ids) - 1], np.float32)
        return token_log_probs(rows, token_ids[-count:])


@click.command()
@click.argument("model")
@click.option("--text", type=click.Path(exists=True, path_type=Path), default=ALICE, help="Held out; may be .xz.")
@click.option("--tokens", default=16384, show_default=True, help="Of the text, from its beginning.")
@click.option("--bits", type=float, help="Of int4, as in doge-export.")
@click.option("--calibration", help="Of int4, as in doge-export.")
@click.option("--calibration-tokens", type=int, help="Of int4, as in doge-export.")
@click.option("--threads", default=1, show_default=True)
@click.option("--folders", type=click.Path(path_type=Path), help="Keeps the exports, and takes those that are there.")
def main(
    model: str,
    text: Path,
    tokens: int,
    bits: float | None,
    calibration: str | None,
    calibration_tokens: int | None,
    threads: int,
    folders: Path | None,
) -> None:
    """Compare the files of MODEL."""
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = folders or Path(temporary)
        root.mkdir(exist_ok=True)
        recipes = {
            name: ExportOptions(model, root / name, name, overwrite=True, report_tokens=0) for name in ("fp32", "int8")
        }
        recipes["int4"] = ExportOptions(
            model,
            root / "int4",
            "int4",
            overwrite=True,
            bits=bits,
            calibration=calibration,
            calibration_tokens=calibration_tokens,
            report_tokens=0,
        )
        for options in recipes.values():
            if not (options.folder / "export_report.json").is_file():
                export(options, lambda step: click.echo(step, err=True))
        ids = text_ids(root / "fp32", text, tokens)
        for name, options in recipes.items():
            size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
            rows[name] = (size, measured(DecoderScorer(Decoder(options.folder, threads)), ids))
        for name, path in peer_files(Path(model), root).items():
            rows[name] = (path.stat().st_size, measured(LlamaScorer(path, threads), ids))
    report(rows, f"{text.name}, {len(ids)} tokens")


def text_ids(folder: Path, text: Path, tokens: int) -> NDArray[np.int64]:
    """The beginning of a text in tokens."""
    content, tokenizer = text.read_bytes(), Tokenizer.from_folder(folder)
    assert tokenizer is not None, f"{folder} has no tokenizer"
    ids = tokenizer.encode((lzma.decompress(content) if text.suffix == ".xz" else content).decode())
    return np.array(ids[:tokens], np.int64)


def measured(scorer: Scorer, ids: NDArray[np.int64]) -> Perplexity:
    """Perplexity in the windows that all share."""
    return perplexity(scorer, ids, window=WINDOW, stride=STRIDE)


def peer_files(model: Path, root: Path) -> dict[str, Path]:
    """llama.cpp's own quantizations of the model's .gguf file; none without that file or without llama.cpp."""
    source = next(model.glob("*.gguf"), None) if model.is_dir() else None
    try:
        import llama_cpp  # noqa: PLC0415 - the peers are optional
    except ModuleNotFoundError:
        return {}
    files = {}
    for name, kind in PEERS.items() if source is not None else ():
        files[name] = root / f"{name}.gguf"
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = vars(llama_cpp)[kind]
        if not files[name].is_file():
            failed = llama_cpp.llama_model_quantize(str(source).encode(), str(files[name]).encode(), params)
            assert not failed, f"llama.cpp could not write {name}"
    return files


def report(rows: dict[str, tuple[int, Perplexity]], text: str) -> None:
    """Print a table, and the same as JSON."""
    click.echo(f"{text}, windows of {WINDOW}\n{'file':<8}{'MB':>8}{'perplexity':>12}{'change':>18}")
    base, found = rows["fp32"][1], {}
    for name, (size, result) in rows.items():
        change, error = paired_change(base, result)
        click.echo(f"{name:<8}{size / 1e6:8.1f}{result.per_token:12.3f}{change:+11.2%} ± {error:.2%}")
        found[name] = {"bytes": size, "perplexity": result.per_token, "change": change, "change_stderr": error}
    click.echo(json.dumps({"text": text} | found))


def paired_change(base: Perplexity, other: Perplexity) -> tuple[float, float]:
    """Relative change of perplexity and its standard error, from the windows' differences."""
    differences = [
        WindowScore(a.start, a.tokens, b.negative_log_likelihood - a.negative_log_likelihood)
        for a, b in zip(base.windows, other.windows, strict=True)
    ]
    return other.per_token / base.per_token - 1, ratio_stderr(differences) or math.nan


if __name__ == "__main__":
    main()
