"""How fast does our Doge train beside transformers' own?

    python -m benchmarks.peers.training --size 20m --length 2048

Full steps of both models (forward, backward, clipping, fused AdamW) with the same weights on the same tokens, in turns.
The ratio is the median of pairs. --attention eager measures our full matrix; --compile compiles the blocks of both, as
torch_compile does in train/.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from transformers import DogeConfig, DogeForCausalLM, PreTrainedModel

import doge_model
from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median

EXTENSIONS = {"qk_norm", "num_mask_heads", "head_dim", "router_bias"}


class Training:
    """A model with its optimizer."""

    def __init__(self, model: PreTrainedModel, bf16: bool, fused_head: bool, compiled: bool, device: str) -> None:
        self.model, self.bf16, self.device = model.to(device).train(), bf16, device
        if compiled:
            for layer in model.model.layers:
                layer.compile()
        self.head: dict[str, bool] = {}
        if fused_head:
            from trl.trainer.utils import add_fused_lm_head  # noqa: PLC0415 - takes seconds, and is seldom wanted

            add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))  # as SFTTrainer does
            self.head = {"fused_lm_head": True}
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(self, ids: torch.Tensor) -> tuple[float, float]:
        """ids int64 [B, T] -> seconds of one step, and its loss."""
        start = time.perf_counter()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = self.model(ids, labels=ids, use_cache=False, **self.head).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        value = loss.item()  # waits for the device
        return time.perf_counter() - start, value


def build(size: str, attention: str, their_attention: str, length: int, **settings: Any) -> tuple[Training, Training]:
    """Ours and transformers' model of one size, with equal weights."""
    torch.manual_seed(0)
    config = doge_model.preset_config(size)
    config.keep_window_size = max(config.keep_window_size, length)
    config._attn_implementation = attention
    ours = doge_model.DogeForCausalLM(config)
    fields = {name: value for name, value in config.to_dict().items() if name not in EXTENSIONS}
    other = DogeForCausalLM(DogeConfig(**fields, attn_implementation=their_attention))
    other.load_state_dict(ours.state_dict())
    return Training(ours, **settings), Training(other, **settings)


@click.command()
@options.size
@click.option("--length", default=2048, show_default=True, help="Tokens per sequence.")
@click.option("--batch-size", default=1, show_default=True, help="Sequences per step.")
@click.option("--bf16/--fp32", default=True, show_default=True)
@click.option("--attention", type=click.Choice(["sdpa", "eager"]), default="sdpa", show_default=True)
@click.option("--their-attention", type=click.Choice(["sdpa", "eager"]), default="sdpa", show_default=True)
@click.option("--fused-head", is_flag=True, help="Give both TRL's fused output matrix, as its trainers do.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the blocks of both.")
@click.option("--threads", default=2, show_default=True)
@options.rounds(5)
@click.option("--device", default="cpu", show_default=True)
@options.json_file
def main(
    size: str,
    length: int,
    batch_size: int,
    bf16: bool,
    attention: str,
    their_attention: str,
    fused_head: bool,
    compiled: bool,
    threads: int,
    rounds: int,
    device: str,
    out: Path | None,
) -> None:
    """Measure training in tokens per second."""
    announce()
    torch.set_num_threads(threads)
    settings = {"bf16": bf16, "fused_head": fused_head, "compiled": compiled, "device": device}
    ours, theirs = build(size, attention, their_attention, length, **settings)
    ids = torch.randint(32768, (batch_size, length), generator=torch.Generator().manual_seed(0)).to(device)
    first_losses = [training.step(ids)[1] for training in (ours, theirs)]  # the warm-up too
    pairs = in_turns([lambda: ours.step(ids)[0], lambda: theirs.step(ids)[0]], rounds)
    speeds = batch_size * length / pairs
    result = {
        "size": size,
        "length": length,
        "batch_size": batch_size,
        "threads": threads,
        "device": device,
        "precision": "bf16" if bf16 else "fp32",
        "fused_head": fused_head,
        "compiled": compiled,
        "tokens_per_s": median(speeds[:, 0]),
        "transformers_tokens_per_s": median(speeds[:, 1]),
        "ratio": median(pairs[:, 1] / pairs[:, 0]),
        "first_losses": first_losses,
    }
    finish(result, out)


if __name__ == "__main__":
    main()
