"""TRL's trainers for a Doge: with the router's load-balancing loss, expert usage, and decay of matrices alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset
from torch import nn
from torch.utils.data import RandomSampler, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from trl import DPOTrainer, RewardTrainer, SFTTrainer

from doge_common.errors import OptionError
from doge_model import DogeForCausalLM
from doge_model.classification import AnyDoge
from doge_model.llama import FILLS
from doge_model.routing import expert_load, load_balancing_loss
from doge_model.saving import is_llama, llama_lacks

from .adapter_files import is_adapter, save_adapter
from .errors import DataError
from .model_card import write_model_card
from .progress import show_one_bar
from .templates import Template


class RouterLog:
    """Computes the load-balancing loss and the usage of experts from the router's logits of every forward.

    TRL has one load-balancing loss, Mixtral's, which takes one logit per expert. A Doge's router gives 2 sqrt(E) logits
    a token, and an expert's logit is the sum of two. So the loss is computed here, by the model's own function.
    """

    def __init__(self, model: AnyDoge) -> None:
        self.top_k = model.config.num_experts_per_tok
        self.loss = torch.zeros(())  # of the last forward
        self.share = torch.zeros(model.config.num_hidden_layers, model.config.num_experts)
        model.model.register_forward_pre_hook(self._ask, with_kwargs=True)
        model.model.register_forward_hook(self._take, with_kwargs=True)

    def _ask(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_router_logits": True}

    def _take(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if torch.is_grad_enabled():
            share, probability = expert_load(output.router_logits, self.top_k, kwargs.get("attention_mask"))
            self.loss = load_balancing_loss(share, probability)
            self.share += share.detach().cpu()

    def usage(self, accelerator: Accelerator) -> dict[str, float]:
        """The share of experts used since the last call, and the evenness of their use, each in its worst layer.

        Evenness is exp(entropy) / E: 1 where all experts of a layer serve alike, 1 / E where one serves alone. All
        processes must call this together, as each has seen its own part of the batches.
        """
        share = accelerator.reduce(self.share.to(accelerator.device), "sum").cpu()
        share /= share.sum(dim=1, keepdim=True)
        evenness = torch.special.entr(share).sum(dim=1).exp() / share.shape[1]
        used = (share > 0).float().mean(dim=1)
        self.share.zero_()
        return {"experts_used": used.min().item(), "experts_evenness": evenness.min().item()}


class GoOnCounting(TrainerCallback):
    """Lets num_tokens go on from its last value after a resume; TRL begins at 0 again."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the last value; the state is that of the checkpoint already."""
        counts = [logs["num_tokens"] for logs in state.log_history if "num_tokens" in logs]
        self.trainer._total_train_tokens = counts[-1] if counts else 0


class DogeTraining(Trainer):
    """The part that all trainers share; it stands before TRL's class in the order of bases."""

    def __init__(self, model: AnyDoge, args: Any, **kwargs: Any) -> None:
        config = model.config
        coefficient = config.router_aux_loss_coef if args.router_aux_loss_coef is None else args.router_aux_loss_coef
        args.router_aux_loss_coef = 0.0  # TRL's own loss is off, see RouterLog; a dense Doge would crash it
        compile_blocks(model, args)
        if args.keep_llama and is_llama(model.config, model.state_dict()):
            # A mask of zeros has no gradient but rounding, which the optimizer would scale up to whole steps.
            for name in llama_lacks(dict(model.named_parameters())):
                model.get_parameter(name).requires_grad_(False)
        self.base_vocabulary = config.vocab_size
        super().__init__(model=model, args=args, **kwargs)
        config.router_aux_loss_coef = coefficient
        self.router_log = RouterLog(model) if config.is_moe and coefficient else None
        self.balance = coefficient
        self.saved_template: Template | None = None  # in place of the tokenizer's, which marks answers
        self.add_callback(GoOnCounting(self))
        show_one_bar(self)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *rest: Any) -> Any:
        """Prepare data as TRL does, then print the number of records cut at max_length, or left out as empty there.

        Raises:
            DataError: no record is left.
        """
        prepared = super()._prepare_dataset(dataset, processing_class, args, *rest)
        *packs, dataset_name = rest  # SFT gives packing, formatting_func and dataset_name, others the last one alone
        packing = bool(packs) and packs[0]
        if isinstance(prepared, Dataset) and not packing:
            limit = math.inf if args.max_length is None else args.max_length
            lost, cut = len(dataset) - len(prepared), sum(_length(row) > limit for row in prepared)
            if lost or cut:
                PartialState().print(
                    f"{dataset_name} data: {lost} of {len(dataset)} records have nothing to learn within max_length "
                    f"({args.max_length}) and are left out; {cut} are cut there"
                )
        if isinstance(prepared, Dataset) and not len(prepared):
            raise DataError(f"no record has anything to learn within max_length ({args.max_length}); raise it")
        return prepared

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save as the Trainer does, with the model card, and with the chat template that the base had."""
        training_template = self.processing_class.chat_template
        if self.saved_template is not None:
            self.processing_class.chat_template = self.saved_template
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        model = self.accelerator.unwrap_model(self.model)
        if not is_adapter(model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            grown = model.config.vocab_size != self.base_vocabulary
            save_adapter(model, folder, state_dict, grown)
            self.processing_class.save_pretrained(folder)
            torch.save(self.args, folder / TRAINING_ARGS_NAME)
        self.processing_class.chat_template = training_template
        if self.args.should_save and self.args.recipe is not None:
            write_model_card(folder, self.args.recipe, model, self.state)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none of TRL's; `_save` has written one."""

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Give a model the tensors that a checkpoint of a Llama lacks, in place of a warning; warn of all else."""
        lacking = llama_lacks(load_result.missing_keys)
        for name in lacking:
            value = next(value for end, value in FILLS.items() if name.endswith(end))
            self.model.get_parameter(name).data.fill_(value)
        tied = ["lm_head.weight"] if self.model.config.tie_word_embeddings else []
        missing = [name for name in load_result.missing_keys if name not in (*lacking, *tied)]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """With batch_tokens, sample as many records an epoch as make whole batches; others are left out each time.

        Otherwise the last step of an epoch would see fewer tokens. With several processes it would see other ones, as
        accelerate begins again where records run out, so that each process has as many (even_batches).
        """
        sampler, args = super()._get_train_sampler(train_dataset), self.args
        if args.batch_tokens is None or not isinstance(sampler, RandomSampler):
            return sampler
        batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        whole = len(sampler) // batch * batch
        return RandomSampler(sampler.data_source, num_samples=whole, generator=sampler.generator) if whole else sampler

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss plus the load-balancing loss of this micro-batch, averaged over the micro-batches of a step."""
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.router_log is None or not self.model.training:
            return result
        balance = self.router_log.loss
        self._metrics["train"]["aux_loss"].append(self.accelerator.gather_for_metrics(balance.detach()).mean().item())
        steps = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
        loss, outputs = result if return_outputs else (result, None)
        loss = loss + self.balance * balance.to(loss.device) / steps
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the usage of experts beside TRL's metrics of training steps."""
        if self.router_log is not None and "loss" in logs:
            logs |= self.router_log.usage(self.accelerator)
        super().log(logs, start_time)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The names of matrices, which alone decay; norms, residual scales, biases and A do not."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]


def compile_blocks(model: AnyDoge, args: Any) -> None:
    """Compile each block in place, all with one graph, where torch_compile asks for it.

    accelerate's regional compilation makes a second model of compiled blocks. TRL keeps a forward from before its fused
    output matrix, which is bound to the first model. On a CPU, nothing compiled would then be called.
    """
    if not args.torch_compile:
        return
    for layer in model.model.layers:
        layer.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
    args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None


def _length(row: dict[str, Any]) -> int:
    """The number of tokens of a prepared record; of a pair, with the longer answer."""
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row.get("prompt_ids", ())) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


class PlainHead(Trainer):
    """On a CPU, computes the model's own loss instead of TRL's fused output matrix.

    The fused matrix saves memory on a GPU and takes longer on a CPU (docs/training.md has figures). Entropy and
    accuracy are not logged here.
    """

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of transformers' Trainer, with TRL's count of tokens."""
        other_loss = (
            self.args.loss_type != "nll" or self.compute_loss_func is not None or self.label_smoother is not None
        )
        if self.accelerator.device.type != "cpu" or other_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs["use_cache"] = False
        if self.model.training:
            tokens = self.accelerator.gather_for_metrics(inputs["attention_mask"].sum())
            self._total_train_tokens += tokens.sum().item()
        self._metrics["train" if self.model.training else "eval"]["num_tokens"] = [self._total_train_tokens]
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)


class DogeSFTTrainer(DogeTraining, PlainHead, SFTTrainer):
    """TRL's SFTTrainer for a Doge."""

    def __init__(self, model: DogeForCausalLM, args: Any, **kwargs: Any) -> None:
        if args.padding_free or (args.packing and args.packing_strategy != "wrapped"):
            raise OptionError(
                f"packing_strategy is {args.packing_strategy!r} and padding_free {args.padding_free}; they must be "
                "'wrapped' and False, as a Doge sees all of a row"
            )
        super().__init__(model, args, **kwargs)


class UnequalPairs(Trainer):
    """Leaves out pairs of answers that are equal once they are cut at max_length: their gradient is rounding alone."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *rest: Any) -> Any:
        """TRL's preparation, then the pairs that still differ."""
        prepared = super()._prepare_dataset(dataset, processing_class, args, *rest)
        with PartialState().main_process_first():
            return prepared.filter(_differ, fn_kwargs={"max_length": args.max_length})


def _differ(row: dict[str, Any], max_length: int | None) -> bool:
    """Whether the collator makes two rows of a pair; it keeps the start of both."""
    room = None if max_length is None else max(0, max_length - len(row["prompt_ids"]))
    return row["chosen_ids"][:room] != row["rejected_ids"][:room]


class DogeDPOTrainer(DogeTraining, UnequalPairs, DPOTrainer):
    """TRL's DPOTrainer for a Doge."""


class DogeRewardTrainer(DogeTraining, RewardTrainer):
    """TRL's RewardTrainer for a Doge with one label."""
