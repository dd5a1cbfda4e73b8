"""A PyTorch checkpoint as a model of the harness: its own HFLM, with our model and tokenizer in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from doge_model import Checkpoint, DogeForCausalLM, load_checkpoint
from doge_model.checkpoint import locate

from ..errors import EvaluationError
from .evaluated_model import SPEED_RUNS, SPEED_TOKENS, Subject, files_hash, timed
from .perplexity import token_log_probs

if TYPE_CHECKING:
    from lm_eval.api.model import LM

PIECE = 256  # tokens whose logits are in memory at once


class TorchScorer:
    """Scores by a PyTorch model."""

    def __init__(self, model: DogeForCausalLM) -> None:
        self._model = model

    @property
    def longest(self) -> int:
        """The window: more tokens would be a stream in which keys are dropped."""
        return int(self._model.config.keep_window_size)

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """See `perplexity.Scorer`."""
        ids = torch.from_numpy(np.asarray(token_ids, dtype=np.int64))
        with torch.inference_mode():
            hidden = self._model.model(ids[None, :-1], use_cache=False).last_hidden_state[0, -count:]
            pieces = [self._model.lm_head(piece).float().numpy() for piece in hidden.split(PIECE)]
        wanted = np.split(np.asarray(token_ids)[-count:], range(PIECE, count, PIECE))
        return np.concatenate([token_log_probs(*pair) for pair in zip(pieces, wanted, strict=True)])


def torch_subject(source: str, threads: int | None) -> Subject:
    """A checkpoint, as `load_checkpoint` takes it.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not fit.
        EvaluationError: it has no tokenizer.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(source)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    if tokenizer is None:
        raise EvaluationError(f"{source} has no tokenizer, without which no text can be evaluated; add its files")

    def decode(prompt: list[int]) -> float:
        ids = torch.tensor([prompt])

        def generate(tokens: int) -> None:
            model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

        times = [timed(lambda: generate(SPEED_TOKENS)) - timed(lambda: generate(1)) for _ in range(SPEED_RUNS)]
        return (SPEED_TOKENS - 1) / sorted(times)[SPEED_RUNS // 2]

    return Subject(
        name=source,
        kind="torch",
        model_hash=checkpoint_hash(source),
        has_chat_template=bool(tokenizer.chat_template),
        encode=tokenizer.encode,
        scorer=TorchScorer(model),
        harness=lambda: harness_model(checkpoint),
        decode=decode,
    )


def harness_model(checkpoint: Checkpoint) -> LM:
    """The harness's model of a checkpoint, request by request: rows of a batch would need padding."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415  perplexity needs no harness

    # of the checkpoint's own generation settings only the ends count, as tasks are to be comparable
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
    """Over a checkpoint's file, or its folder's weights, configuration and tokenizer."""
    path = Path(locate(source, None, None, False))
    if path.is_file():
        return files_hash([path], "torch")
    patterns = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
    return files_hash(sorted(file for pattern in patterns for file in path.glob(pattern)), "torch")
