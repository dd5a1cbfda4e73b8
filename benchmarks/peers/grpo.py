"""How much faster is a GRPO step whose completions are written by our runtime, beside TRL's own generation?

    python -m benchmarks.peers.grpo --size 20m --rounds 3

Whole steps of three trainers in turns, with the same random model. They are ours with the runtime, ours with
transformers' `generate`, and TRL's GRPOTrainer as it is. A step writes the completions, rewards them, and trains on
them. The model has so many end tokens that the lengths of completions are geometric with the mean --mean-length, at
most --length.
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import GRPOTrainer

import doge_model
from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median
from train.grpo_trainer import DogeGRPOTrainer
from train.onnx_rollouts import OnnxRollouts
from train.stages.grpo import ReasoningConfig

GROUP = 8  # completions of a prompt
AT_ONCE = 8  # rows of a forward and backward
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A word for every token."""
    words = {f"t{index}": index for index in range(vocab_size)}
    made = Tokenizer(models.WordLevel(words, unk_token="t0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="t0", eos_token="t2", unk_token="t0", chat_template=TEMPLATE
    )


def token_three(completions: Any, **_: Any) -> list[float]:
    """A reward that costs no time."""
    return [float("t3" in messages[0]["content"]) for messages in completions]


class Steps:
    """A trainer whose steps are taken one by one."""

    def __init__(self, kind: type[Any], model: Any, config: Any, prompts: list[str], **kwargs: Any) -> None:
        records = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in prompts])
        self.trainer = kind(
            model=model,
            args=config,
            reward_funcs=token_three,
            train_dataset=records,
            processing_class=tokenizer(model.config.vocab_size),
            **kwargs,
        )
        self.batch = [records[i // GROUP] for i in range(len(prompts) * GROUP)]
        self.optimizer = self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
        self.trainer.model.train()
        self._generate, self.trainer._generate = self.trainer._generate, self.timed
        self.tokens = self.writing = 0.0

    def timed(self, prompts: Any) -> Any:
        """Write completions, and note the seconds."""
        start = time.perf_counter()
        out = self._generate(prompts)
        self.writing, self.tokens = time.perf_counter() - start, sum(map(len, out[1]))
        return out

    def step(self) -> tuple[float, float, float]:
        """Seconds of a step, and of its completions; and their tokens."""
        start = time.perf_counter()
        for _ in range(self.trainer.args.gradient_accumulation_steps):
            self.trainer.training_step(self.trainer.model, self.batch, None)
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.trainer.state.global_step += 1
        return time.perf_counter() - start, self.writing, self.tokens


def trainers(size: str, completions: int, prompt_length: int, length: int, mean: int, bf16: bool) -> list[Steps]:
    """Ours with the runtime, ours with transformers, and TRL's as it is."""
    torch.manual_seed(0)
    model = doge_model.DogeForCausalLM(doge_model.preset_config(size))
    for name, parameter in model.named_parameters():
        if name.endswith("self_attn.A"):
            torch.nn.init.normal_(parameter, std=0.5)  # the mask of a new model is not in use
    vocab_size = model.config.vocab_size
    model.generation_config.eos_token_id = list(range(2, 2 + vocab_size // mean))
    drawn = np.random.default_rng(0).integers(vocab_size // 2, vocab_size, (completions // GROUP, prompt_length))
    prompts = [" ".join(f"t{index}" for index in row) for row in drawn]
    config = ReasoningConfig(
        tempfile.mkdtemp(),
        max_completion_length=length,
        num_generations=GROUP,
        batch_completions=completions,
        per_device_train_batch_size=AT_ONCE,
        activation_checkpointing=False,
        router_aux_loss_coef=0.0,
        bf16=bf16,
        report_to="none",
    )
    rollouts: dict[str, Any] = {"reference": None, "rollout_func": OnnxRollouts()}
    return [
        Steps(DogeGRPOTrainer, copy.deepcopy(model), copy.deepcopy(config), prompts, **rollouts),
        Steps(DogeGRPOTrainer, copy.deepcopy(model), copy.deepcopy(config), prompts, reference=None),
        Steps(GRPOTrainer, copy.deepcopy(model), copy.deepcopy(config), prompts),
    ]


@click.command()
@options.size
@click.option("--completions", default=32, show_default=True, help=f"Of a step, {GROUP} to a prompt.")
@click.option("--prompt-length", default=64, show_default=True, help="Tokens of a prompt.")
@click.option("--length", default=256, show_default=True, help="Most tokens of a completion.")
@click.option("--mean-length", default=100, show_default=True, help="Mean of the lengths, were there no most.")
@click.option("--bf16/--fp32", default=False, show_default=True, help="Of the training.")
@options.threads
@options.rounds(3)
@options.json_file
def main(
    size: str,
    completions: int,
    prompt_length: int,
    length: int,
    mean_length: int,
    bf16: bool,
    threads: int,
    rounds: int,
    out: Path | None,
) -> None:
    """Measure steps of GRPO in seconds."""
    announce()
    torch.set_num_threads(threads)
    measured = trainers(size, completions, prompt_length, length, mean_length, bf16)
    figures = in_turns([each.step for each in measured], rounds)  # [rounds, trainers, 3]
    whole, writing = figures[..., 0], figures[..., 1]
    rate = writing / figures[..., 2]  # seconds a token, as no two trainers draw the same lengths
    names = ("runtime", "transformers", "trl")
    result: dict[str, Any] = {
        "size": size,
        "completions": completions,
        "prompt_length": prompt_length,
        "length": length,
        "mean_length": mean_length,
        "precision": "bf16" if bf16 else "fp32",
        "threads": threads,
        "mean_tokens": float(figures[..., 2].mean()) / completions,
        "step_s": {name: median(whole[:, i]) for i, name in enumerate(names)},
        "writing_s": {name: median(writing[:, i]) for i, name in enumerate(names)},
        "writing_ratio": median(rate[:, 1] / rate[:, 0]),
        "step_ratio": median(whole[:, 1] / whole[:, 0]),
        "step_ratio_trl": median(whole[:, 2] / whole[:, 0]),
    }
    finish(result, out)


if __name__ == "__main__":
    main()
