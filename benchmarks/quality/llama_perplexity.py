"""How well does llama.cpp predict a text with its own files of the demo model?

    python -m benchmarks.quality.llama_perplexity Q8_0 Q4_K_M --text doge_export/texts/alice.txt

Tokens and windows are those of doge-eval --perplexity. llama.cpp itself requantizes the GGUF file that the demo is
lifted from; `source` measures that file as it is. Its matrices are in Q4_1, so each kind adds its error to numbers that
lie on a 4-bit grid, as the demo's exports do. Needs llama-cpp-python.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.llama import KINDS, requantize
from benchmarks.common.results import Result, announce, finish
from doge_export.evaluation.perplexity import DEFAULT_WINDOW, Scorer, perplexity
from doge_export.texts.token_ids import TEXT_FILE
from doge_model import load_checkpoint
from doge_model.gguf import DEMO, demo_gguf_path

from .llama_scorer import LlamaScorer
from .texts import read_text


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice([*KINDS, "source"]))
@click.option("--text", type=click.Path(exists=True, path_type=Path), default=TEXT_FILE, help="In UTF-8; may be .xz.")
@options.threads
@options.json_file
def main(kinds: tuple[str, ...], text: Path, threads: int, out: Path | None) -> None:
    """Measure each of KINDS, by default Q8_0 and Q4_K_M; a line of JSON each."""
    announce()
    content = read_text(text)
    tokenizer = load_checkpoint(DEMO).tokenizer
    assert tokenizer is not None, "the demo has one"
    ids = tokenizer(content)["input_ids"]
    rows = []
    for kind in kinds or ("Q8_0", "Q4_K_M"):
        with tempfile.TemporaryDirectory() as folder:
            path = file_of(kind, Path(folder))
            scorer = LlamaScorer(path, threads, DEFAULT_WINDOW)
            rows.append({"kind": kind, "megabytes": path.stat().st_size / 1e6} | measured(scorer, ids, content))
        click.echo(json.dumps(rows[-1]))
    finish({"text": text.name, "threads": threads, "rows": rows}, out)


def file_of(kind: str, folder: Path) -> Path:
    """The demo's GGUF file as it is, or requantized into a folder."""
    source = demo_gguf_path()
    if kind == "source":
        return source
    requantize(source, kind, folder / f"{kind}.gguf")
    return folder / f"{kind}.gguf"


def measured(scorer: Scorer, ids: list[int], text: str) -> Result:
    """Perplexity of a text."""
    found = perplexity(scorer, ids, text_bytes=len(text.encode()))
    return {
        "tokens": found.tokens,
        "window": found.window,
        "stride": found.stride,
        "per_token": found.per_token,
        "stderr": found.stderr,
        "bits_per_byte": found.bits_per_byte,
    }


if __name__ == "__main__":
    main()
