"""TRL's GRPOTrainer for a Doge: with its own reference model, and the model's own output matrix on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerState
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler, add_fused_lm_head

from doge_common.errors import OptionError
from doge_model import DogeForCausalLM

from .trainers import DogeTraining


class PlainLogps(Trainer):
    """On a CPU, takes log-probabilities from the model's own logits of the completions.

    TRL's fused output matrix would score the prompts too there, by chunks that are slow on a CPU (docs/training.md).
    """

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities [B, logits_to_keep] of the last tokens, and entropies, which have no gradient.

        Both are 0 at padding, which is none of the output matrix's work.
        """
        if self.accelerator.device.type != "cpu" or self._entropy_bonus_enabled:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
            )
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        parts = []
        for ids, mask in zip(*(x.split(batch_size or len(x)) for x in (input_ids, attention_mask)), strict=True):
            written = mask[:, -logits_to_keep:].bool()
            with self.accelerator.autocast(), only_before(head, written):
                logits = model(ids, attention_mask=mask, logits_to_keep=logits_to_keep + 1, use_cache=False).logits
            each = scored(logits.float() / self.temperature, ids[:, -logits_to_keep:][written], compute_entropy)
            parts.append([torch.zeros_like(written, dtype=x.dtype).masked_scatter(written, x) for x in each])
        logps, entropies = (torch.cat(each) for each in zip(*parts, strict=True))
        return logps, entropies if compute_entropy else None, None


@contextmanager
def only_before(head: nn.Module, written: Tensor) -> Iterator[None]:
    """Let an output matrix see the places before written tokens alone, as rows [N, hidden].

    It is called with [B, T + 1, hidden]. written: bool [B, T], N in number.
    """
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][:, :-1][written],))
    try:
        yield
    finally:
        hook.remove()


def scored(logits: Tensor, ids: Tensor, wants_entropy: bool) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens [...] by logits [..., vocab], and the entropy at each, 0 where it is not wanted."""
    logps = logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(dim=-1)
    if not wants_entropy:
        return logps, torch.zeros_like(logps)
    with torch.no_grad():
        all_logps = logits.log_softmax(dim=-1)
        return logps, -(all_logps.exp() * all_logps).sum(dim=-1)


class OwnReference(Trainer):
    """Keeps the given reference model where beta asks for one; TRL would load transformers' own Doge by its name."""

    def __init__(self, reference: DogeForCausalLM | None, args: Any, **kwargs: Any) -> None:
        beta, args.beta = args.beta, 0.0
        super().__init__(args=args, **kwargs)
        self.beta = args.beta = beta
        if reference is not None:
            add_fused_lm_head(reference, self.temperature, args.cast_lm_head_to_fp32)
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)


class EpochOrder(RepeatSampler):
    """TRL's order of prompts, drawn anew for each epoch; TRL's own begins again with the first epoch's on a resume."""

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch; accelerate calls it before each."""
        self.generator.manual_seed(self.seed + epoch)


class DogeGRPOTrainer(DogeTraining, PlainLogps, OwnReference, GRPOTrainer):
    """TRL's GRPOTrainer for a Doge.

    Completions that serve several steps are in no checkpoint. So a run goes on only from a step behind which new ones
    are written.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Make the trainer.

        Raises:
            OptionError: no checkpoint that save_steps asks for could be gone on from.
        """
        super().__init__(**kwargs)
        steps = self._saved_steps()
        if steps and not any(map(self._writes_anew, steps)):
            raise OptionError(
                f"save_steps is {self.args.save_steps}; it must be a multiple of {self._steps_served()}, or each "
                "checkpoint lies between steps on the same completions, where no run goes on"
            )

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """TRL's training; it goes on only from a step after which new completions are written.

        Raises:
            OptionError: the checkpoint lies between two steps on the same completions, which it does not hold.
        """
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
            if not self._writes_anew(state.global_step):
                raise OptionError(
                    f"resume_from_checkpoint is {resume_from_checkpoint}; its step must be a multiple of "
                    f"{self._steps_served()} in its epoch, as completions in use are not saved; set save_steps so"
                )
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _saved_steps(self) -> range:
        """The steps before the last one that are saved by save_steps."""
        args, epoch = self.args, self._steps_of_epoch()
        last = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * (epoch or 0))
        if args.save_strategy != "steps" or not last:
            return range(0)
        every = math.ceil(last * args.save_steps) if args.save_steps < 1 else int(args.save_steps)
        return range(every, last, every)

    def _writes_anew(self, step: int) -> bool:
        """Whether new completions are written behind a step."""
        epoch = self._steps_of_epoch()
        return (step if epoch is None else step % epoch) % self._steps_served() == 0

    def _steps_served(self) -> int:
        """The steps until the last one on some completions is the last of its batches too."""
        config = self.args
        accumulated, serves = config.gradient_accumulation_steps, config.steps_per_generation * self.num_iterations
        return int(serves // math.gcd(serves, accumulated))

    def _steps_of_epoch(self) -> int | None:
        """The steps of an epoch; its last one may take fewer batches, and then all are used. None for a stream."""
        if not isinstance(self.train_dataset, Sized):
            return None
        sampler: Any = super()._get_train_sampler()
        batches = len(sampler) // self.args.generation_batch_size
        return max(math.ceil(batches / self.args.gradient_accumulation_steps), 1)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        """Rewards [completions of all devices, functions], nan for no opinion.

        Raises:
            OptionError: no function has an opinion of any completion.
        """
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)
        if rewards.isnan().all():
            names = ", ".join(self.reward_func_names)
            raise OptionError(f"the rewards {names} returned None for all completions of a batch; one must be a number")
        return rewards

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """TRL's sampler, with an order for each epoch where it shuffles."""
        sampler: Any = super()._get_train_sampler(train_dataset)
        if not sampler.shuffle:
            return sampler
        return EpochOrder(
            sampler.data_source,
            sampler.mini_repeat_count,
            sampler.batch_size,
            sampler.repeat_count,
            sampler.shuffle,
            self.args.seed,
        )
