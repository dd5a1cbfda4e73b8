"""The config.json of a saved model: that of a class of transformers which computes the same, or a type of our own.

- llama: every dt is the same and no residual is scaled. Whatever reads a Llama loads it right.
- doge: transformers' own Doge computes the same.
- doge_model: neither is true. transformers refuses the folder unless this package has registered the type.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import DogeConfig as TransformersDogeConfig
from transformers import LlamaConfig, PreTrainedConfig

from .configuration import DogeConfig
from .llama import CARRIED, FILLS, llama_sinks

LABELS = ("id2label", "label2id", "problem_type")  # the fields of a classifier


def shared_config(config: DogeConfig, tensors: Mapping[str, Tensor]) -> PreTrainedConfig:
    """The configuration to save beside tensors: a LlamaConfig, transformers' DogeConfig, or the given one."""
    if is_llama(config, tensors):
        return as_llama(config, head_of(tensors))
    return as_transformers_doge(config, head_of(tensors)) if runs_in_transformers(config) else config


def exported_config(config: DogeConfig, tensors: Mapping[str, Tensor]) -> PreTrainedConfig:
    """The configuration to write beside a graph: a LlamaConfig, or a DogeConfig whose type transformers knows.

    An export has no weights to load wrong, and optimum reads its config.json through transformers' AutoConfig.
    """
    head = head_of(tensors)
    return as_llama(config, head) if is_llama(config, tensors) else as_transformers_doge(config, head)


def head_of(tensors: Iterable[str]) -> str:
    """The end of the name of transformers' class with these tensors: of a classifier or of a causal model."""
    return "ForSequenceClassification" if "score.weight" in tensors else "ForCausalLM"


def is_llama(config: DogeConfig, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a Llama computes the same: nothing that it lacks has an effect, and the window is its context.

    Its sinks count beyond that, once it is lifted again.
    """
    if config.qk_norm or config.is_moe or config.keep_window_size != config.max_position_embeddings:
        return False
    if config.keep_sinks != llama_sinks(config.keep_window_size) or config.keep_bonus or config.keep_recent:
        return False
    # dt is exp(A softplus(z)). With A = 0 it is 1 for every key, whatever dt_proj holds.
    counting = {end: value for end, value in FILLS.items() if ".dt_proj." not in end}
    return all(
        bool((tensors[name] == value).all())
        for end, value in counting.items()
        for name in llama_lacks(tensors)
        if name.endswith(end)
    )


def llama_lacks(names: Iterable[str]) -> list[str]:
    """Those of the names that no tensor of a Llama has."""
    return [name for name in names if name.endswith(tuple(FILLS))]


def runs_in_transformers(config: DogeConfig) -> bool:
    """Whether transformers' own Doge (5.23) computes the same within max_position_embeddings tokens.

    It has qk norm and a mask head for each kv head, and routes the experts of a token by other tokens' logits. Beyond
    the window it evicts any of several keys of equal dt, and it knows no bonus. Sinks and safe keys count there alone.
    """
    own = not config.qk_norm or config.is_moe or config.num_mask_heads != config.num_key_value_heads
    return not own and not config.keep_bonus and config.keep_window_size >= config.max_position_embeddings


def as_llama(config: DogeConfig, head: str = "ForCausalLM") -> LlamaConfig:
    """The fields that a LlamaConfig has too, with the class of this head."""
    fields, labels = vars(config), LABELS if head == "ForSequenceClassification" else ()
    llama = LlamaConfig(**{name: fields[name] for name in (*CARRIED, *labels) if name in fields})
    llama.architectures, llama.dtype = [f"Llama{head}"], config.dtype
    return llama


def as_transformers_doge(config: DogeConfig, head: str = "ForCausalLM") -> TransformersDogeConfig:
    """All fields, under the type that transformers knows, with the class of this head."""
    fields = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    doge = TransformersDogeConfig(**fields)
    doge.architectures = [f"Doge{head}"]
    return doge


def write_config(config: PreTrainedConfig, folder: Path) -> None:
    """Write config.json with RoPE as transformers 5 reads it and, beside it, as transformers 4 does.

    transformers 4 passes over rope_parameters and would rotate with its default base, without a word.
    """
    rope = dict(config.rope_parameters)
    fields: dict[str, Any] = config.to_diff_dict() | {"rope_theta": rope.pop("rope_theta")}
    if rope["rope_type"] != "default":
        fields["rope_scaling"] = rope
    (folder / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
