"""Completions for GRPO by the runtime of doge_export, as TRL's rollout_func; the only module of train that knows it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from doge_common.errors import OptionError
from doge_export.rollouts import Policy, Sampling, complete
from doge_model import DogeForCausalLM


class OnnxRollouts:
    """Writes the completions of a trainer; the model is exported in memory when its weights have changed."""

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._step = -1  # of the weights that the policy has

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """One completion of each prompt, which TRL has repeated already.

        Raises:
            OptionError: the weights are sharded, an option has no counterpart, or there is no library of operators.
            ExportError: DogeStep does not compute this model.
        """
        check_trainer(trainer)
        prompt_ids = trainer.processing_class.apply_chat_template(
            prompts, add_generation_prompt=True, return_dict=True, **trainer.chat_template_kwargs
        )["input_ids"]
        seeds = torch.randint(2**31, (len(prompts),)).tolist()  # the trainer's generator, which a resumed run restores
        written = complete(
            self._updated(trainer).decoder, prompt_ids, frozenset(trainer.eos_token_ids), sampling_of(trainer), seeds
        )
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [each.token_ids for each in written],
            "logprobs": [each.logprobs for each in written],
        }

    def _updated(self, trainer: Any) -> Policy:
        model, step = trainer.accelerator.unwrap_model(trainer.model), trainer.state.global_step
        if self._policy is None:
            self._policy = Policy(whole_model(model), torch.get_num_threads())
        elif step != self._step:
            self._policy.update(whole_model(model))
        self._step = step
        return self._policy


def whole_model(model: nn.Module) -> DogeForCausalLM:
    """The model, or a copy of a base with its adapter merged; to merge and to take back would round the base."""
    if isinstance(model, DogeForCausalLM):
        return model
    copied: Any = copy.deepcopy(model)
    tied = copied.get_base_model().config.tie_word_embeddings
    if tied:
        untie(copied)
    merged: DogeForCausalLM = copied.merge_and_unload()
    if tied:
        merged.config.tie_word_embeddings = False
    return merged


def untie(model: nn.Module) -> None:
    """Give a tied output matrix numbers of its own, as a merge into the embedding would change it too."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    shared = {id(table.weight) for table in tables}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) in shared:
            module.weight = nn.Parameter(module.weight.detach().clone())


def sampling_of(trainer: Any) -> Sampling:
    """The settings of the trainer's sampling."""
    return Sampling(
        max_new_tokens=trainer.max_completion_length,
        temperature=trainer.temperature,
        top_p=trainer.top_p,
        top_k=trainer.top_k or 0,
        min_p=trainer.min_p or 0.0,
        repetition_penalty=trainer.repetition_penalty,
    )


def check_trainer(trainer: Any) -> None:
    """Refuse sharded weights, other engines, and settings that have no counterpart here.

    Raises:
        OptionError: there is such a thing.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise OptionError("use_onnx_rollouts is true; it must be false where FSDP or DeepSpeed shard the weights")
    if trainer.args.generation_kwargs:
        names = ", ".join(trainer.args.generation_kwargs)
        raise OptionError(f"generation_kwargs has {names}; it must be left out, or set use_onnx_rollouts to false")
    if trainer.use_vllm or trainer.use_transformers_continuous_batching:
        raise OptionError("use_onnx_rollouts is true; it must be false where another engine writes the completions")
