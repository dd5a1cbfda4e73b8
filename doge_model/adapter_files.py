"""An adapter folder of PEFT, read and checked before PEFT sees it. Nothing is unpickled, and no code of it is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from doge_common.errors import CheckpointError

from .tensors import INDEX_FILE, SINGLE_FILE, check_printable, checked, read_json

ADAPTER_CONFIG, ADAPTER_TENSORS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's names
PICKLE = "adapter_model.bin"
# Kinds that PEFT merges into a model's own weights, and that tests hold. It merges others too, such as RANDLORA.
MERGEABLE = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA", "TRAINABLE_TOKENS")
# Fields of adapter_config.json that no merge can follow -> the reason.
REFUSED_FIELDS = {
    "megatron_config": "it names a module to import",
    "layer_replication": "it repeats layers of the base",
    "alora_invocation_tokens": "its effect begins at a token",
    "arrow_config": "it chooses among adapters for each token",
}
# Values of init_lora_weights under which the base of the training is not made again at load -> the reason. PiSSA by a
# full SVD and OLoRA take the same part out of the base each time. The others leave it as it is.
CONVERSION = (
    "save it in PEFT by save_pretrained with path_initial_model_for_weight_conversion, the adapter's folder from "
    "before its training"
)
LOST_BASES = {
    "pissa_niter": f"as PEFT takes another random part out of the base at each load; {CONVERSION}",
    "corda": f"as the part taken out of the base depends on data that is not in the folder; {CONVERSION}",
    "lora_ga": f"as the part taken out of the base depends on gradients that are not in the folder; {CONVERSION}",
    "loftq": "as PEFT quantizes the base again, in a way that depends on the machine; merge it where it was trained",
}


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter as its folder has it.

    Attributes:
        folder: its place.
        fields: of adapter_config.json.
        tensors: by the names of the file, in float32.
    """

    folder: Path
    fields: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def base(self) -> str:
        """The base that it says it was trained on; empty where it says none."""
        return str(self.fields.get("base_model_name_or_path") or "")

    @property
    def revision(self) -> str | None:
        """The base's revision on the hub, where one is named."""
        named = self.fields.get("revision")
        return named if isinstance(named, str) and named not in ("", "main") else None


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not any(
        (folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)
    )


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The fields of adapter_config.json, of a kind that can be merged.

    Raises:
        CheckpointError: it is missing or damaged, or the adapter is of another kind.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        inner = sorted(each.parent.name for each in folder.glob(f"*/{ADAPTER_CONFIG}"))
        hint = f"; its folder {inner[0]} is one, give that" if inner else f", for it has no {ADAPTER_CONFIG}"
        raise CheckpointError(f"{folder} is no adapter{hint}")
    fields = read_json(path)
    kind, task = fields.get("peft_type"), fields.get("task_type")
    if kind not in MERGEABLE:
        raise CheckpointError(
            f"{path}: peft_type is {kind!r}; it must be one of the kinds tested here: {', '.join(MERGEABLE)}"
        )
    if task not in (None, "CAUSAL_LM"):
        raise CheckpointError(f"{path}: task_type is {task!r}; it must be 'CAUSAL_LM'")
    for name, reason in REFUSED_FIELDS.items():
        if fields.get(name):
            raise CheckpointError(f"{path}: {name} is set; it must be null, as {reason}, which a merge cannot have")
    check_start(path, fields.get("init_lora_weights"))
    return fields


def check_start(path: Path, start: object) -> None:
    """Refuse an adapter that was trained on a changed base which its folder does not tell.

    Raises:
        CheckpointError: it is one.
    """
    for name, reason in LOST_BASES.items():
        if isinstance(start, str) and start.lower().startswith(name):
            raise CheckpointError(
                f"{path}: init_lora_weights is {start!r}, with which an adapter is not merged, {reason}"
            )


def read_adapter(folder: Path) -> AdapterFiles:
    """Read an adapter folder.

    Raises:
        CheckpointError: a file is missing, damaged or a pickle, or holds an adapter that cannot be merged.
    """
    fields, path = read_adapter_config(folder), folder / ADAPTER_TENSORS
    if not path.is_file():
        if (folder / PICKLE).is_file():
            raise CheckpointError(
                f"{folder} has only {PICKLE}, a pickle, which can run code and is never opened; "
                "save the adapter as safetensors (PEFT's save_pretrained writes that)"
            )
        raise CheckpointError(f"{path} is missing; give a whole adapter folder")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            check_printable(names, "tensor")
            tensors = {name: checked(name, file.get_tensor(name), torch.float32) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no tensor; give an adapter that was trained")
    return AdapterFiles(folder, fields, tensors)
