"""The model under evaluation: an exported folder or a PyTorch checkpoint, with everything an evaluation asks of either.

`exported.py` and `torch_model.py` make one; `evaluation.load_model` chooses between the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..measure.greedy import Feed
from .perplexity import Scorer

if TYPE_CHECKING:
    from lm_eval.api.model import LM


@dataclass(frozen=True)
class EvaluatedModel:
    """A loaded model.

    Attributes:
        name: the folder, file or name that the user gave.
        kind: "onnxruntime" or "torch".
        model_hash: hash over weights, graphs, tokenizer and template, the things that answers depend on.
        has_chat_template: whether prompts can become chats.
        encode: text to token ids.
        scorer: gives log-probabilities, for perplexity.
        harness: makes a model of the harness from it.
        open_stream: opens an empty stream, for the speed.
    """

    name: str
    kind: str
    model_hash: str
    has_chat_template: bool
    encode: Callable[[str], list[int]]
    scorer: Scorer
    harness: Callable[[], LM]
    open_stream: Callable[[], Feed]


def files_hash(paths: Iterable[Path], first: str) -> str:
    """SHA-256 over the text `first` and then the name and content of each file that exists."""
    digest = hashlib.sha256(first.encode())
    for path in paths:
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
