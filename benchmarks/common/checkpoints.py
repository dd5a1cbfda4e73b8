"""Random checkpoints that doge-export takes as any other: python -m benchmarks.common.checkpoints 20m FOLDER

`doge_export.export.random_model` writes a decoder alone. A calibration text needs a tokenizer,
and onnxruntime-genai its own settings. So these have the tokenizer of the folder in `checkpoints/`, whose vocabulary is
the family's.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

TOKENIZER = Path(__file__).parents[2] / "checkpoints" / "doge-20m-10min-int8"
FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_checkpoint(size: str, folder: Path) -> None:
    """Write a random member of the family, of the same numbers every time."""
    import torch  # noqa: PLC0415 - who only measures needs no PyTorch

    from doge_model import DogeForCausalLM, preset_config  # noqa: PLC0415 - imports torch

    torch.manual_seed(0)
    model = DogeForCausalLM(preset_config(size)).eval()
    for number in range(model.config.num_hidden_layers):
        exponents = model.get_parameter(f"model.layers.{number}.self_attn.A")
        torch.nn.init.normal_(exponents, std=0.5)  # the mask of a new model is not in use
    model.save_pretrained(folder)
    for name in FILES:
        shutil.copy(TOKENIZER / name, folder)


if __name__ == "__main__":
    write_checkpoint(sys.argv[1], Path(sys.argv[2]))
