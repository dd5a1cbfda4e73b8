"""Training speed against transformers' own Doge: python benchmarks/training.py --size 20m --length 2048

Full steps (forward, backward, clipping, fused AdamW) of both models with the same weights on the same tokens, in turn;
prints medians and the ratio of pairs as one JSON object in the last line. --attention eager measures our full matrix;
--compile compiles the blocks of both, as torch_compile does in train/.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click
import numpy as np
import torch
import transformers
from transformers import DogeConfig, DogeForCausalLM, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

import doge_model
from doge_export.bench.machine import cpu_name

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


def build(size: str, attention: str, theirs: str, length: int, **options: Any) -> tuple[Training, Training]:
    """Ours and transformers' model of one size, with equal weights."""
    torch.manual_seed(0)
    config = doge_model.preset_config(size)
    config.keep_window_size = max(config.keep_window_size, length)
    config._attn_implementation = attention
    ours = doge_model.DogeForCausalLM(config)
    fields = {name: value for name, value in config.to_dict().items() if name not in EXTENSIONS}
    other = DogeForCausalLM(DogeConfig(**fields, attn_implementation=theirs))
    other.load_state_dict(ours.state_dict())
    return Training(ours, **options), Training(other, **options)


@click.command()
@click.option("--size", default="20m", show_default=True, help="A family member, such as 20m or 60m.")
@click.option("--length", default=2048, show_default=True, help="Tokens per sequence.")
@click.option("--batch-size", default=1, show_default=True, help="Sequences per step.")
@click.option("--bf16/--fp32", default=True, show_default=True)
@click.option("--attention", type=click.Choice(["sdpa", "eager"]), default="sdpa", show_default=True)
@click.option("--their-attention", type=click.Choice(["sdpa", "eager"]), default="sdpa", show_default=True)
@click.option("--fused-head", is_flag=True, help="Give both TRL's fused output matrix, as its trainers do.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the blocks of both.")
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True)
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
) -> None:
    """Measure training in tokens per second."""
    torch.set_num_threads(threads)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    click.echo(f"{cpu_name()}, {device}, {versions}, {threads} thread(s), {size}, {batch_size} x {length}")
    options = {"bf16": bf16, "fused_head": fused_head, "compiled": compiled, "device": device}
    ours, theirs = build(size, attention, their_attention, length, **options)
    ids = torch.randint(32768, (batch_size, length), generator=torch.Generator().manual_seed(0)).to(device)
    (_, first), (_, their_first) = ours.step(ids), theirs.step(ids)  # warm-up
    pairs = np.array([(ours.step(ids)[0], theirs.step(ids)[0]) for _ in range(rounds)])
    tokens = batch_size * length
    result = {
        "size": size,
        "length": length,
        "precision": "bf16" if bf16 else "fp32",
        "fused_head": fused_head,
        "compiled": compiled,
        "tokens_per_s": float(np.median(tokens / pairs[:, 0])),
        "transformers_tokens_per_s": float(np.median(tokens / pairs[:, 1])),
        "ratio": float(np.median(pairs[:, 1] / pairs[:, 0])),
        "first_losses": [first, their_first],
    }
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
