"""An adapter beside its base instead of in it: its updates as pairs of thin matrices, for graphs that take them.

Only LoRA is of that form, W x + up (down x). All else is refused by name; it can be merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from doge_common.errors import CheckpointError

from .adapter_files import AdapterFiles
from .adapters import base_tables, native_names, wrap
from .forms import MARCH_2025

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

# The linear maps whose products a graph can add an update to.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "dt_proj", "gate_proj", "up_proj", "down_proj")
PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")  # the others change the base
REMEDY = "merge it: doge-export BASE --adapter DIR"


@dataclass(frozen=True)
class LowRank:
    """The update of a linear map.

    Attributes:
        down: float32 [rank, in_features].
        up: float32 [out_features, rank], times the adapter's scaling.
    """

    down: Tensor
    up: Tensor


@contextmanager
def beside(checkpoint: Checkpoint, adapter: AdapterFiles) -> Iterator[dict[str, LowRank]]:
    """Put an adapter into a checkpoint's model by PEFT, unmerged, while the block lasts; its updates by module.

    Inside, the model's forward is PEFT's own. Behind the block the model is as it was.

    Raises:
        CheckpointError: the adapter does not fit, or is not of that form.
    """
    check_form(adapter)
    tensors = native_names(adapter.tensors) if checkpoint.form == MARCH_2025 else dict(adapter.tensors)
    if base_tables(tensors):
        raise CheckpointError(f"the adapter {adapter.folder} brings tables of its own, so {REMEDY}")
    model = checkpoint.model
    wrapped = wrap(model, adapter, tensors, checkpoint.form)
    try:
        yield low_rank_updates(wrapped, adapter)
    finally:
        wrapped.unload()
        for parameter in model.parameters():
            parameter.requires_grad_(True)


def check_form(adapter: AdapterFiles) -> None:
    """Refuse an adapter whose configuration asks for more than thin matrices.

    Raises:
        CheckpointError: it does.
    """
    fields = adapter.fields
    wanted: dict[str, tuple[Any, ...]] = {
        "peft_type": ("LORA",),
        "use_dora": (False, None),
        "bias": ("none", None),
        "lora_bias": (False, None),
        "init_lora_weights": (*PLAIN_INITS, None),
    }
    for name, allowed in wanted.items():
        if fields.get(name) not in allowed:
            raise CheckpointError(f"the adapter {adapter.folder} has {name} {fields[name]!r}, so {REMEDY}")
    for name in ("modules_to_save", "trainable_token_indices", "target_parameters", "use_bdlora", "use_qalora"):
        if fields.get(name):
            raise CheckpointError(f"the adapter {adapter.folder} has {name}, so {REMEDY}")


def low_rank_updates(wrapped: Any, adapter: AdapterFiles) -> dict[str, LowRank]:
    """The thin matrices by the native name of the module, as PEFT has read them.

    Raises:
        CheckpointError: a module is none of TARGETS, or the adapter changes it in another way.
    """
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - an extra's

    name, updates = wrapped.active_adapter, {}
    for module_name, module in wrapped.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if not module_name.endswith(TARGETS) or name not in module.lora_A or name in module.lora_variant:
            raise CheckpointError(f"the adapter {adapter.folder} adapts {module_name}, so {REMEDY}")
        down, up = module.lora_A[name].weight.detach(), module.lora_B[name].weight.detach()
        updates[module_name] = LowRank(down.float(), up.float() * module.scaling[name])
    return updates
