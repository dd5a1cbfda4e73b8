"""Checkpoints that transformers 4.57 reads as another model than they are: put right, or refused."""

from __future__ import annotations

from typing import Any

from transformers import DogeConfig, DogeForCausalLM

from ..errors import CheckpointError

INSTEAD = "run doge-export, in an environment with the extra export"


class OwnDogeConfig(DogeConfig):
    """The type under which `doge_model.saving` saves a Doge that transformers' own class computes otherwise."""

    model_type = "doge_model"

    @classmethod
    def from_dict(cls, *arguments: Any, **options: Any) -> Any:
        """Refuse it.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            f"model_type is {cls.model_type!r}; it must be 'doge', as transformers 4.57 computes this model otherwise; "
            f"{INSTEAD}"
        )


class WholeDoge(DogeForCausalLM):
    """The loader of `AutoModelForCausalLM` after `register_doge()`: all tensors come from the checkpoint, or none.

    transformers alone fills gaps with random or neutral numbers. The q_norm of every small-doge checkpoint is one.
    """

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """A `DogeForCausalLM` of transformers, loaded with the options of its `from_pretrained`.

        Raises:
            CheckpointError: a tensor is missing, or has another shape.
        """
        strict = options | {"output_loading_info": True, "ignore_mismatched_sizes": True}  # told, instead of raised
        model, loading = DogeForCausalLM.from_pretrained(*arguments, **strict)
        unfit = sorted({*loading["missing_keys"], *loading["mismatched_keys"]})
        if unfit:
            raise CheckpointError(
                f"tensor {unfit[0]} is not in the checkpoint in the shape that transformers 4.57 needs; {INSTEAD}"
            )
        return (model, loading) if options.get("output_loading_info") else model


def check_config(config: DogeConfig) -> None:
    """Refuse a model that this transformers cannot run.

    Raises:
        CheckpointError: it has experts.
    """
    if config.is_moe:
        raise CheckpointError(
            f"config field is_moe is True; it must be False, as transformers 4.57 runs no experts; {INSTEAD}"
        )


def restore_rope(config: DogeConfig) -> None:
    """Copy the RoPE that transformers 5 saved as `rope_parameters` into the two fields that 4.57 reads.

    Without them 4.57 turns by a base of 10000, unscaled.
    """
    rope = dict(config.to_dict().get("rope_parameters") or {})
    if rope:
        config.rope_theta = rope.pop("rope_theta", config.rope_theta)
        config.rope_scaling = None if rope.get("rope_type", "default") == "default" else rope
