"""Folders with two adapters of PEFT beside a base, and the answers of Python's runtime with each of them.

The adapters are random, and different in their targets: one changes all products and the mask, the other leaves most
places empty. A third one belongs to another base.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import doge_export
from doge_export import Model
from doge_export.export import ExportOptions, export
from doge_export.runtime.generation_options import GenerationOverrides
from tests.helpers.adapters import TARGETS, doge_of, lora_config, save_random_adapter
from tests.helpers.checkpoints import byte_vocabulary, tiny_llama
from tests.runtimes.folders import llama_checkpoint, random_checkpoint

ADAPTERS: dict[str, dict[str, Any]] = {
    "legal": {"r": 4, "target_modules": [*TARGETS, "dt_proj"], "rank_pattern": {"up_proj": 2}},
    "support": {"r": 7, "target_modules": ["q_proj", "down_proj"]},
}
PLAIN: dict[str, dict[str, Any]] = {"legal": {"r": 4}, "support": {"r": 7, "target_modules": ["v_proj", "up_proj"]}}
MORE_HEADS = {"qk_norm": False, "num_mask_heads": 4, "num_key_value_heads": 1}  # once the window is full
ADDED = "added.onnx_adapter"  # one of the first folder's base that the folder does not have
COUNT = 20  # tokens of an answer
PROMPTS = ([*range(5, 25)], [5 + i % 200 for i in range(150)])  # within a window of 128 tokens, and beyond it
GREEDY: GenerationOverrides = {
    "temperature": 0.0,
    "repetition_penalty": 10.0,  # random models would repeat one token
    "ignore_eos": True,
    "max_new_tokens": COUNT,
}


def adapter_folders(work: Path) -> Iterator[Path]:
    """A Doge in float32, the same in 8 bits, and a Llama, whose first layer has no table of mask logits."""
    checkpoints = work / "checkpoints"
    source = random_checkpoint(checkpoints / "adapted", **MORE_HEADS)
    adapters = {name: save_adapter(source, name, seed, form) for seed, (name, form) in enumerate(ADAPTERS.items())}
    added = {"added": save_adapter(source, "added", 3, ADAPTERS["support"])}
    other = export_with(checkpoints / "export", source, added, "fp32")
    shutil.move(other / "adapters" / ADDED, work / ADDED)
    yield export_with(work / "adapters", source, adapters, "fp32")
    yield export_with(work / "adapters-int8", source, adapters, "int8")
    llama = tiny_llama(vocab_size=len(byte_vocabulary()), max_position_embeddings=128)
    source = llama_checkpoint(checkpoints / "adapted-llama", llama)
    adapters = {name: save_adapter(source, name, seed, form) for seed, (name, form) in enumerate(PLAIN.items())}
    yield export_with(work / "adapters-llama", source, adapters, "fp32")


def save_adapter(source: Path, name: str, seed: int, form: dict[str, Any]) -> Path:
    """A random adapter of a checkpoint, as PEFT saves it."""
    folder = source.parent / f"{source.name}-{name}"
    save_random_adapter(doge_of(source).model, folder, source, lora_config(**form), seed)
    return folder


def export_with(folder: Path, source: Path, adapters: dict[str, Path], weights: str) -> Path:
    """The export of a checkpoint with adapters."""
    given = {name: str(path) for name, path in adapters.items()}
    return export(ExportOptions(str(source), folder, weights, adapters=given, report_tokens=0, threads=1)).folder


def adapter_vectors(folder: Path) -> dict[str, Any]:
    """All that is compared of one folder: by the name of an adapter, "" for the base."""
    model = doge_export.load(folder, threads=1, operators=False)
    if folder.name == "adapters":
        model.add_adapter("added", folder.parent / ADDED)
    return {name or "": answers(model, folder, name) for name in (None, *model.adapters)}


def answers(model: Model, folder: Path, name: str | None) -> list[dict[str, Any]]:
    """Logits and tokens behind each prompt, and a state that is saved in the midst of the tokens."""
    found = []
    for prompt in PROMPTS:
        tokens = model.generate(prompt, adapter=name, **GREEDY).token_ids
        state = model.prefill(prompt, adapter=name)
        file = f"{folder.name}-{name}-python-{len(prompt)}.safetensors"
        state.save(folder.parent / file)
        logits = model.logits(prompt, adapter=name)[-1].tolist()
        going_on = model.generate([7], state=state, **GREEDY).token_ids
        found.append({"prompt": prompt, "tokens": tokens, "logits": logits, "file": file, "going_on": going_on})
    return found
