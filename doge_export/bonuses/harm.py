"""A first guess of bonuses: a linear function of values that comes near to the harm that a key's loss does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from doge_model.modeling import DogeAttention

from .layer import Heads

RIDGE = 0.03  # of the features' mean square
STRIDE = 8  # every so many queries tell the harm
LEAST = 1e-10  # added to it, so that it has a logarithm


@dataclass(frozen=True)
class Linear:
    """One number for every key by kv head: weight [G, G * D] and offset [G], float32."""

    weight: Tensor
    offset: Tensor

    def of(self, features: Tensor) -> Tensor:
        """features [T, G * D] -> [G, T]."""
        return self.weight @ features.T + self.offset[:, None]

    def scaled(self, shift: Tensor, scale: Tensor) -> Linear:
        """scale * (z - shift), by head: [G] each."""
        return Linear(self.weight * scale[:, None], (self.offset - shift) * scale)


def log_harm(attention: DogeAttention, heads: Heads, far: int) -> Tensor:
    """The logarithm of the harm that a key's loss does to a query at least `far` tokens later, on average: [G, T].

    It is attention x distance between the key's value and the head's output, both behind o_proj, / the residual's size.
    """
    asked = torch.arange(far, heads.length, STRIDE)
    weights = heads.weights(asked)
    outputs = heads.outputs(weights)
    width, length = outputs.shape[-1], heads.length
    harm = torch.zeros(len(heads.key), length)
    is_far = asked[:, None] >= torch.arange(length) + far
    for head, own in enumerate(weights):
        o_proj = attention.o_proj.weight[:, head * width : (head + 1) * width]
        # distances behind o_proj are those of its triangular factor, which is as narrow as a head
        _, factor = torch.linalg.qr(o_proj)
        group = head // heads.times
        distance = torch.cdist(outputs[head] @ factor.T, heads.value[group] @ factor.T)
        harm[group] += (own * distance * is_far / heads.size[asked, None]).sum(0)
    logarithm: Tensor = (harm / is_far.sum(0).clamp(min=1) + LEAST).log()
    return logarithm


def ridge(features: Tensor, harm: Tensor) -> Linear:
    """Linear functions of features [N, F] that come near to harm [N, G], scaled to mean 0 and standard deviation 1."""
    mean = features.double().mean(0)
    x = features.double() - mean
    squares = x.T @ x
    squares += RIDGE * squares.diagonal().mean() * torch.eye(len(squares), dtype=torch.float64)
    weight = torch.linalg.solve(squares, x.T @ (harm - harm.mean(0)).double())
    weight = (weight / (x @ weight).std(0).clamp(min=1e-30)).T
    return Linear(weight.float(), -(weight @ mean).float())
