"""How often does a chat model repeat itself to the limit, and which settings of sampling end that?

    python -m benchmarks.quality.loops smollm2-135m-int8

Each setting answers the 100 questions of `questions.txt`, eight at a time, up to --max-new-tokens. An answer loops
where it ends in one piece again and again: of at most 64 tokens, three times or more, 48 tokens in all.

Beside the loops stand the answers that ended by themselves, their median length, and their surprise. That is nats per
token by the model itself at temperature 1, of an answer's first 128 tokens. Greedy answers surprise least.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

import doge_export
from benchmarks.common import options
from benchmarks.common.results import Result, announce, finish
from doge_export import GenerationResult, Model
from doge_export.runtime.generation_options import GenerationOverrides

QUESTIONS = Path(__file__).parent / "questions.txt"
ROWS = 8  # answered together
LONGEST_PIECE, TIMES, LOOP_TOKENS = 64, 3, 48
SURPRISE_TOKENS = 128
SETTINGS: dict[str, GenerationOverrides] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.2, top_p 0.9 (SmolLM2's card)": {"temperature": 0.2, "top_p": 0.9},
    "temperature 0.8, top_k 40, top_p 0.95, min_p 0.05 (llama.cpp)": {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
    },
    "temperature 0.8, top_k 40, top_p 0.9, repetition_penalty 1.1 (ollama)": {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
    },
    "llama.cpp's and repetition_penalty 1.05": {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repetition_penalty": 1.05,
    },
}


def loops(token_ids: list[int]) -> bool:
    """Whether an answer ends in one piece again and again; see the module."""
    for piece in range(1, LONGEST_PIECE + 1):
        needed = max(TIMES * piece, LOOP_TOKENS)
        tail = token_ids[-needed:]
        if len(tail) == needed and tail[piece:] == tail[:-piece]:
            return True
    return False


def surprise(model: Model, prompt: list[int], answer: list[int]) -> float:
    """Nats per token of an answer behind its prompt."""
    ids = np.array(prompt + answer)
    logits = model.decoder.forward(model.new_state(), ids, "all")[len(prompt) - 1 : -1]
    return float(np.mean(log_sum_exp(logits) - logits[np.arange(len(answer)), answer]))


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [N, vocab] -> [N]."""
    top = logits.max(axis=1)
    total: NDArray[np.float32] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return total


def answered(model: Model, questions: list[str], settings: GenerationOverrides, limit: int) -> list[GenerationResult]:
    """The answers; the seed of a batch gives each row its own."""
    found: list[GenerationResult] = []
    for first in range(0, len(questions), ROWS):
        overrides: GenerationOverrides = {**settings, "max_new_tokens": limit, "seed": first}
        chats = [[{"role": "user", "content": question}] for question in questions[first : first + ROWS]]
        found += model.chat(chats, **overrides)
    return found


def summary(model: Model, questions: list[str], answers: list[GenerationResult]) -> Result:
    """Counts of 100, the median length in tokens, the mean surprise in nats."""
    prompts = [
        model.tokenizer.encode(model.chat_template.render([{"role": "user", "content": question}]), False)
        for question in questions
    ]
    pairs = [
        (prompt, each.token_ids[:SURPRISE_TOKENS])
        for prompt, each in zip(prompts, answers, strict=True)
        if each.token_ids
    ]
    return {
        "loops": sum(loops(each.token_ids) for each in answers),
        "ended": sum(each.finish_reason == "stop" for each in answers),
        "tokens": float(np.median([len(each.token_ids) for each in answers])),
        "nats_per_token": float(np.mean([surprise(model, *pair) for pair in pairs])),
    }


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--max-new-tokens", default=512, show_default=True, help="Where an answer is cut.")
@options.threads
@options.json_file
def main(folder: Path, max_new_tokens: int, threads: int, out: Path | None) -> None:
    """Answer the questions with each setting."""
    announce()
    model = doge_export.load(folder, threads=threads)
    questions, rows = QUESTIONS.read_text(encoding="utf-8").splitlines(), []
    for name, settings in SETTINGS.items():
        answers = answered(model, questions, settings, max_new_tokens)
        rows.append({"settings": name, **summary(model, questions, answers)})
        click.echo(rows[-1])
    finish({"max_new_tokens": max_new_tokens, "rows": rows}, out)


if __name__ == "__main__":
    main()
