"""One stream of a PyTorch model, fed like that of an exported decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from .greedy import Feed

if TYPE_CHECKING:
    from transformers import Cache

    from doge_model import DogeForCausalLM


def torch_stream(model: DogeForCausalLM, cache: Cache) -> Feed:
    """A stream over an empty cache of its own; see `greedy.Feed`. It returns the logits of the last token alone."""

    def feed(token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            output = model(torch.from_numpy(token_ids)[None], past_key_values=cache, logits_to_keep=1)
        logits: NDArray[np.float32] = output.logits[0].float().numpy()
        return logits

    return feed
