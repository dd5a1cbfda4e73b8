"""A random family member without a download: python -m doge_export.export.random_model 20m int8 OUT [WINDOW [SINKS]]"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..errors import DogeError, ExportError, OptionError
from ..extras import needs_extra
from ..recipes import RECIPES

WEIGHTS = ("int8", "fp16", "fp32")  # other recipes need more than the matrices


def export_random(size: str, weights: str, folder: Path, keep_window: int | None = None, keep_sinks: int = 0) -> None:
    """Write the decoder of a random family member, in a process of its own: torch stays out of the one that measures.

    Args:
        size: of the family, such as 20m or 20m-moe.
        weights: one of WEIGHTS.
        folder: gets onnx/; it has no tokenizer.
        keep_window: tokens; None leaves the family's.
        keep_sinks: first tokens of a stream that never leave; with a window alone.

    Raises:
        OptionError: the family has no such size, or a random model no such weights.
        ExportError: the export extra is missing, or the export failed.
    """
    command = [sys.executable, "-m", "doge_export.export.random_model", size, weights, str(folder)]
    if keep_window is not None:
        command += [str(keep_window), str(keep_sinks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    last = (done.stderr.strip().splitlines() or [f"exporting a random {size} ended with code {done.returncode}"])[-1]
    raise (OptionError if done.returncode == 2 else ExportError)(last)


def write_random(size: str, weights: str, folder: Path, keep_window: int | None, keep_sinks: int = 0) -> None:
    """The same in this process."""
    if weights not in WEIGHTS:
        raise OptionError(f"the weights of a random model are {weights}; they must be one of {', '.join(WEIGHTS)}")
    with needs_extra("export", "a random model", ExportError):
        import torch  # noqa: PLC0415 - only in the process of its own

        from doge_model import DogeForCausalLM, preset_config  # noqa: PLC0415 - imports torch

        from ..quantization.rounding import simple_plan  # noqa: PLC0415 - the same
        from .decoder_files import fold_model, write_decoder  # noqa: PLC0415 - the same
    torch.manual_seed(0)
    config = preset_config(size)
    config.keep_window_size, config.keep_sinks = keep_window or config.keep_window_size, keep_sinks
    model = DogeForCausalLM(config).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.A, std=0.5)  # the mask of a new model is not in use
    folded, recipe = fold_model(model), RECIPES[weights]
    write_decoder(folded, simple_plan(folded.matrices, recipe), folder, kv_float16=recipe.kv_float16)


def main(size: str, weights: str, folder: str, keep_window: str | None = None, keep_sinks: str = "0") -> None:
    """The process of its own: the last line on stderr is the error, and exit code 2 stands for a wrong option."""
    try:
        window = None if keep_window is None else int(keep_window)
        write_random(size, weights, Path(folder), window, int(keep_sinks))
    except DogeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2 if isinstance(error, OptionError) else 1) from error


if __name__ == "__main__":
    main(*sys.argv[1:])
