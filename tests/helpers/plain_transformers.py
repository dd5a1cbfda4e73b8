"""Folders loaded by plain transformers, in a process that never imports a package of ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCRIPT = """
import sys
import numpy as np, torch
from transformers import AutoModelForCausalLM
ids = torch.tensor([[int(word) for word in sys.argv[1].split()]])
for number, folder in enumerate(sys.argv[3:]):
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    except ValueError as error:
        open(f"{sys.argv[2]}/{number}.txt", "w").write(str(error))
        continue
    with torch.no_grad():
        np.save(f"{sys.argv[2]}/{number}.npy", model(ids).logits[0].numpy())
assert "doge_model" not in sys.modules
"""


def plain_logits(folders: Sequence[Path], ids: Any, scratch: Path) -> dict[Path, NDArray[np.float32] | str]:
    """Of each folder the logits float32 [T, vocab] of ids int64 [T], or the text of transformers' refusal."""
    scratch.mkdir()
    words = [sys.executable, "-c", SCRIPT, " ".join(map(str, ids.tolist())), str(scratch), *map(str, folders)]
    subprocess.run(words, check=True, timeout=300, cwd=scratch)
    found: dict[Path, NDArray[np.float32] | str] = {}
    for number, folder in enumerate(folders):
        logits = scratch / f"{number}.npy"
        found[folder] = np.load(logits) if logits.exists() else (scratch / f"{number}.txt").read_text()
    return found
