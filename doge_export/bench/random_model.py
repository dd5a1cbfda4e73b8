"""A random member of the family, written without a download: python -m doge_export.bench.random_model 20m int8 OUT"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from ..commands import Command
from ..errors import ExportError, OptionError

EXTRA = ("torch", "transformers", "onnx", "safetensors", "huggingface_hub", "gguf")  # what the export extra brings


def export_random(size: str, weights: str, folder: Path, keep_window: int | None = None) -> None:
    """Write the decoder of a random family member, in a process of its own: torch stays out of what is measured.

    Args:
        size: of the family, such as 20m or 20m-moe.
        weights: int8 or fp32.
        folder: gets onnx/; it has no tokenizer.
        keep_window: tokens; None leaves the family's.

    Raises:
        OptionError: the family has no such size.
        ExportError: the export extra is missing, or the export failed.
    """
    command = [sys.executable, "-m", "doge_export.bench.random_model", size, weights, str(folder)]
    if keep_window is not None:
        command += ["--keep-window", str(keep_window)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    last = (done.stderr.strip().splitlines() or [f"exporting a random {size} ended with code {done.returncode}"])[-1]
    raise (OptionError if done.returncode == 2 else ExportError)(last.removeprefix("Error: "))


@click.command(cls=Command)
@click.argument("size")
@click.argument("weights", type=click.Choice(["int8", "fp32"]))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--keep-window", type=click.IntRange(min=1), help="Tokens; the family's by default.")
def main(size: str, weights: str, folder: Path, keep_window: int | None) -> None:
    """Write the decoder of a random model of SIZE to FOLDER."""
    try:
        import torch  # noqa: PLC0415 - only in the process of its own

        from doge_model import DogeForCausalLM, preset_config  # noqa: PLC0415 - imports torch

        from ..conversion import write_decoder  # noqa: PLC0415 - the same
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise ExportError(f"a random model needs {error.name}: pip install 'doge-export[export]'") from error
    torch.manual_seed(0)
    config = preset_config(size)
    config.keep_window_size = keep_window or config.keep_window_size
    model = DogeForCausalLM(config).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.A, std=0.5)  # the mask of a new model is not in use
    write_decoder(model, weights, folder)


if __name__ == "__main__":
    main()
