"""What every benchmark states, and the models they run on."""

from __future__ import annotations

import multiprocessing
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor, as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def export_random(size: str, weights: str, folder: Path) -> None:
    """Write the decoder of a random family member, in a process of its own: torch stays out of what is measured."""
    process = multiprocessing.get_context("spawn").Process(target=_export_random, args=(size, weights, folder))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"exporting a random {size} failed")


def _export_random(size: str, weights: str, folder: Path) -> None:
    import torch  # noqa: PLC0415 - only in the process of its own

    from doge_export.conversion import write_decoder  # noqa: PLC0415 - imports torch
    from doge_model import DogeForCausalLM, preset_config  # noqa: PLC0415 - the same

    torch.manual_seed(0)
    model = DogeForCausalLM(preset_config(size)).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.A, std=0.5)  # the mask of a new model is not in use
    write_decoder(model, weights, folder)
