"""The choice of a token's experts, the evenness of their use, and the loss that evens it. Shapes as in modeling.py."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_experts(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The top_k experts of each token: router_logits [N, 2, num_keys] -> scores and expert indices [N, top_k].

    Both halves of a pair among the top_k of the grid are among the top_k of their row, so no others are added up.
    """
    num_keys = router_logits.shape[-1]
    (scores_x, scores_y), (keys_x, keys_y) = (
        part.unbind(1) for part in router_logits.topk(min(top_k, num_keys), dim=-1)
    )
    scores = (scores_x[:, :, None] + scores_y[:, None, :]).flatten(1)
    experts = (keys_x[:, :, None] * num_keys + keys_y[:, None, :]).flatten(1)
    scores, best = scores.topk(top_k, dim=-1)
    return scores, experts.gather(-1, best)


def expert_load(router_logits: tuple[Tensor, ...], top_k: int, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The share of tokens that each expert serves, and its mean probability: float32 [layers, E] each.

    The rows of the share sum to top_k, those of the probability to 1.

    Args:
        router_logits: one [B * T, 2, num_keys] per layer.
        top_k: the experts of a token.
        attention_mask: [B, T], 0 at tokens that do not count.
    """
    logits = torch.stack(router_logits).float()  # [layers, N, 2, num_keys]
    if attention_mask is not None:
        logits = logits[:, attention_mask.flatten().bool()]
    x, y = logits.softmax(-1).unbind(2)
    with torch.autocast(logits.device.type, enabled=False):  # bfloat16 is too coarse for a sum over all tokens
        grid = torch.einsum("lnx,lny->lxy", x, y)  # the softmax of x + y is the product of both softmaxes
    probability = grid.flatten(1) / logits.shape[1]
    experts = torch.stack([choose_experts(layer, top_k)[1].flatten() for layer in logits])
    share = torch.zeros_like(probability).scatter_add_(1, experts, torch.ones_like(experts, dtype=torch.float32))
    return share / logits.shape[1], probability


def load_balancing_loss(share: Tensor, probability: Tensor) -> Tensor:
    """Switch Transformer's auxiliary loss (arXiv:2101.03961, equations 4 to 6); top_k if all experts serve alike.

    Expert number e counts as one over all layers, as everywhere in transformers.

    share and probability float32 [layers, E] -> float32 [].
    """
    return share.shape[1] * (share.mean(0) * probability.mean(0)).sum()
