"""How much time do bonuses and safe recent keys take in steps and prompts over a full window?

    python -m benchmarks.speed.bonuses --size 20m --window 512

Two random models without a mask, one of them with bonuses, are fed in turns behind a full window. Ratios are medians of
the rounds' ratios of time, with bonuses to without; more than 1 is slower.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from doge_export.options import RECENT

from .sinks import STEPS, compared

SINKS, BONUS = 4, 4096  # as calibrate_window gives them to a Llama
TOKENS = 40.0  # standard deviation of dt_proj's weights: bonuses of some hundred tokens


def write(size: str, window: int, has_bonus: bool, folder: Path) -> None:
    """A random model in 8 bits, in a process of its own: torch stays out of the one that measures."""
    import torch  # noqa: PLC0415 - only in that process

    from doge_export.export.decoder_files import fold_model, write_decoder  # noqa: PLC0415 - imports torch
    from doge_export.quantization.rounding import simple_plan  # noqa: PLC0415 - the same
    from doge_export.recipes import RECIPES  # noqa: PLC0415 - the same
    from doge_model import DogeForCausalLM, preset_config  # noqa: PLC0415 - the same

    torch.manual_seed(0)
    config, recipe = preset_config(size), RECIPES["int8"]
    config.keep_window_size, config.keep_sinks, config.qk_norm = window, SINKS, False
    if has_bonus:
        config.keep_bonus, config.keep_recent = BONUS, RECENT
    model = DogeForCausalLM(config).eval()
    if has_bonus:
        for layer in model.model.layers:
            torch.nn.init.constant_(layer.self_attn.A, 2.0**-40)
            torch.nn.init.normal_(layer.self_attn.dt_proj.weight, std=TOKENS)
    folded = fold_model(model)
    write_decoder(folded, simple_plan(folded.matrices, recipe), folder, kv_float16=recipe.kv_float16)


@click.command()
@options.size
@click.option("--window", type=click.IntRange(2 * RECENT), default=512, show_default=True, help="Keys that are kept.")
@options.threads
@options.rounds(21)
@options.json_file
def main(size: str, window: int, threads: int, rounds: int, out: Path | None) -> None:
    """Time a random model of a family size with bonuses beside the same one without."""
    announce()
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / kind for kind in ("bonuses", "none")]
        for folder, has_bonus in zip(folders, (True, False), strict=True):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                pool.apply(write, (size, window, has_bonus, folder))
        rows = compared(folders, "bonuses", threads, rounds)
    finish({"size": size, "window": window, "steps": STEPS, "threads": threads, "rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
