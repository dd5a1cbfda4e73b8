"""A PyTorch checkpoint as the model under evaluation: the harness's own HFLM, with our model and tokenizer in it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, GenerationConfig

from doge_model import Checkpoint, DogeForCausalLM, load_checkpoint
from doge_model.checkpoint import locate

from ..errors import EvaluationError
from ..measure.torch_stream import torch_stream
from .evaluated_model import EvaluatedModel, files_hash
from .perplexity import token_log_probs

if TYPE_CHECKING:
    from lm_eval.api.model import LM

PIECE = 256  # tokens whose logits are in memory at once
HASHED_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")


class TorchScorer:
    """Scores tokens by a PyTorch model; see `perplexity.Scorer`."""

    def __init__(self, model: DogeForCausalLM) -> None:
        self._model = model

    @property
    def longest(self) -> int:
        """The window: a longer sequence would evict keys, and its numbers would be those of a stream."""
        return int(self._model.config.keep_window_size)

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """Log-probabilities, in nats, of the last `count` of int64 [S] tokens: float64 [count]."""
        ids = torch.from_numpy(np.asarray(token_ids, dtype=np.int64))
        with torch.inference_mode():
            hidden = self._model.model(ids[None, :-1], use_cache=False).last_hidden_state[0, -count:]
            pieces = [self._model.lm_head(piece).float().numpy() for piece in hidden.split(PIECE)]
        wanted = np.split(np.asarray(token_ids)[-count:], range(PIECE, count, PIECE))
        return np.concatenate([token_log_probs(*pair) for pair in zip(pieces, wanted, strict=True)])


def load_torch(source: str, threads: int | None) -> EvaluatedModel:
    """Load a checkpoint: a folder, a .gguf file, a hub id or the name of the demo.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not fit.
        EvaluationError: it has no tokenizer.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(source)
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        raise EvaluationError(f"the tokenizer of {source} is missing; add its files")
    return EvaluatedModel(
        name=source,
        kind="torch",
        model_hash=checkpoint_hash(source),
        has_chat_template=bool(tokenizer.chat_template),
        encode=tokenizer.encode,
        scorer=TorchScorer(checkpoint.model),
        harness=partial(harness_model, checkpoint),
        open_stream=lambda: torch_stream(checkpoint.model, DynamicCache(config=checkpoint.model.config)),
    )


def harness_model(checkpoint: Checkpoint) -> LM:
    """The harness's model of a checkpoint. It answers request by request: rows of a batch would need padding."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415  perplexity needs no harness

    # of the checkpoint's own generation settings only the ends count, so that tasks can be compared
    ends = checkpoint.generation_config.eos_token_id
    checkpoint.model.generation_config = GenerationConfig(eos_token_id=ends)
    return HFLM(
        pretrained=checkpoint.model,
        tokenizer=checkpoint.tokenizer,
        backend="causal",
        max_length=checkpoint.model.config.keep_window_size,
        batch_size=1,
        device="cpu",
    )


def checkpoint_hash(source: str) -> str:
    """Hash over a checkpoint's file, or over the weights, configuration and tokenizer in its folder."""
    path = Path(locate(source, None, None, False))
    if path.is_file():
        return files_hash([path], "torch")
    return files_hash(sorted(file for pattern in HASHED_FILES for file in path.glob(pattern)), "torch")
