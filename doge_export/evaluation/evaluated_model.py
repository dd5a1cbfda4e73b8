"""What is evaluated: an exported folder or a PyTorch checkpoint, with all an evaluation asks of either."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError
from ..runtime.description import DECODER_FILE, RECURRENT_FILE
from ..runtime.model import load
from .perplexity import DecoderScorer, Scorer

if TYPE_CHECKING:
    from lm_eval.api.model import LM

SPEED_PROMPT, SPEED_TOKENS, SPEED_RUNS = 64, 128, 3  # tokens, tokens, times


@dataclass(frozen=True)
class Subject:
    """A loaded model.

    Attributes:
        name: as it was given.
        kind: "onnxruntime" or "torch".
        model_hash: over the weights, the graphs, the tokenizer and the template: what the answers depend on.
        has_chat_template: whether it can be asked in a chat.
        encode: text to token ids.
        scorer: for perplexity.
        harness: makes it a model of the harness.
        decode: new tokens per second: takes a prompt of SPEED_PROMPT token ids.
    """

    name: str
    kind: str
    model_hash: str
    has_chat_template: bool
    encode: Callable[[str], list[int]]
    scorer: Scorer
    harness: Callable[[], LM]
    decode: Callable[[list[int]], float]


def load_subject(source: str, threads: int | None) -> Subject:
    """Load an exported folder, or else a checkpoint: a folder, a .gguf file, a hub id or the name of the demo.

    Raises PackageError or CheckpointError where it is neither, EvaluationError where it has no tokenizer.
    """
    if (Path(source) / DECODER_FILE).is_file():
        return exported_subject(source, threads)
    from .torch_model import torch_subject  # noqa: PLC0415  an exported folder needs no torch

    return torch_subject(source, threads)


def exported_subject(source: str, threads: int | None) -> Subject:
    """A folder that doge-export wrote."""
    model = load(source, threads)
    tokenizer = model.require_tokenizer()

    def harness() -> LM:
        from .harness_model import DogeLM  # noqa: PLC0415  perplexity needs no harness

        return DogeLM(model)

    def decode(prompt: list[int]) -> float:
        results = [
            model.generate(prompt, max_new_tokens=SPEED_TOKENS, temperature=0, ignore_eos=True).decode_tokens_per_s
            for _ in range(SPEED_RUNS)
        ]
        return sorted(results)[SPEED_RUNS // 2]

    folder = Path(source)
    names = (DECODER_FILE, RECURRENT_FILE, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    weights = model.new_state().description.weights_sha256
    return Subject(
        name=source,
        kind="onnxruntime",
        model_hash=files_hash((folder / name for name in names), weights),
        has_chat_template=model.has_chat_template,
        encode=tokenizer.encode,
        scorer=DecoderScorer(model.decoder),
        harness=harness,
        decode=decode,
    )


def files_hash(paths: Iterable[Path], first: str) -> str:
    """SHA-256 over a text and the files that exist."""
    digest = hashlib.sha256(first.encode())
    for path in paths:
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def speed_prompt(encode: Callable[[str], list[int]]) -> list[int]:
    """SPEED_PROMPT token ids of plain text."""
    ids = encode("The keeper of the lighthouse wrote a letter to her brother every evening, and he wrote back. " * 8)
    if len(ids) < SPEED_PROMPT:
        raise EvaluationError("the tokenizer makes fewer than 64 tokens of 700 characters; the speed is not measured")
    return ids[:SPEED_PROMPT]


def timed(run: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
