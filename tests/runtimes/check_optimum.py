"""The golden table in optimum: python -m tests.runtimes.check_optimum WORK, in an environment of the extra `optimum`.

Greedy tokens alone and in one batch padded on the left, against the table. Beams and samples, against those computed
here from our own runtime's logits. The pipeline's texts, alone, in a batch and of a chat, against our own. The exit
code is the number of folders that differ.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from torch import Tensor
from transformers import AutoTokenizer, pipeline
from transformers.utils import logging

import doge_export
from doge_export.runtime.generation_options import GenerationOverrides
from tests.runtimes.rows import Row, read, same_in_batch

logging.set_verbosity_error()
WORK = Path(sys.argv[1])
TABLE = read(WORK, "table.json")
INT8_STATE = "-kv-int8"  # ends the name of a folder; optimum keeps its state in float32, as the sibling of ours does
TEXTS = 4  # of the prompts, those that are plain texts
PAD = 0
BEAMS, BEAM_TOKENS = 3, 6
SAMPLES, SAMPLED_TOKENS, TEMPERATURE = 3, 12, 0.8
QUESTION = [{"role": "user", "content": "Who ran to the house?"}]

Rows = list[list[int]]
Logits = Callable[[Rows], Tensor]  # tokens behind the prompt, [rows, len] -> the logits behind them, [rows, vocabulary]


def our_logits(ours: doge_export.Model, prompt: list[int], rows: Rows) -> Tensor:
    """Logits of our runtime, which reads the prompt as a whole and the rest one by one, as a generation does."""
    found = []
    for row in rows:
        state = ours.decoder.new_state()
        pieces = [prompt, *([token] for token in row)]
        found.append([ours.decoder.forward(state, np.array(piece)).copy() for piece in pieces][-1][-1])
    return torch.from_numpy(np.stack(found))


def best_beams(logits: Logits) -> Rows:
    """The most probable rows of a beam search, the best one first."""
    rows, scores = list[list[int]]([[]]), torch.zeros(1)
    for _ in range(BEAM_TOKENS):
        total = scores[:, None] + logits(rows).log_softmax(-1)
        scores, places = total.flatten().topk(BEAMS)
        rows = [[*rows[place // total.shape[1]], place % total.shape[1]] for place in places.tolist()]
    return rows


def samples(logits: Logits) -> Rows:
    """Rows drawn token by token from torch's generator."""
    rows: Rows = [[]] * SAMPLES
    for _ in range(SAMPLED_TOKENS):
        drawn = torch.multinomial((logits(rows) / TEMPERATURE).softmax(-1), 1)
        rows = [[*row, *token] for row, token in zip(rows, drawn.tolist(), strict=True)]
    return rows


def seeded(seed: int, draw: Callable[[], Rows]) -> Rows:
    """The rows that are drawn after this seed."""
    torch.manual_seed(seed)
    return draw()


def generate(model: ORTModelForCausalLM, ids: Rows, mask: Rows, **options: Any) -> Rows:
    """Tokens behind rows of one width; none of them ends a row."""
    settings = {"pad_token_id": PAD, "repetition_penalty": 1.0, "eos_token_id": None, **options}
    found = model.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **settings)
    return [row[len(ids[0]) :].tolist() for row in found]


def differing_tokens(model: ORTModelForCausalLM, ours: doge_export.Model, rows: list[Row]) -> list[str]:
    """The ways in which `generate` gives other tokens than our own runtime."""
    prompts, expected = [row["prompt"] for row in rows], [row["tokens"] for row in rows]
    width, count = max(map(len, prompts)), len(expected[0])
    padded = [[PAD] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    greedy = {"max_new_tokens": count, "do_sample": False, "repetition_penalty": rows[0]["repetition_penalty"]}
    beams = {"num_beams": BEAMS, "num_return_sequences": BEAMS, "max_new_tokens": BEAM_TOKENS, "do_sample": False}
    draw = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "num_return_sequences": SAMPLES}
    first = partial(generate, model, prompts[:1], [[1] * len(prompts[0])])
    drawn = partial(first, max_new_tokens=SAMPLED_TOKENS, **draw)
    logits = partial(our_logits, ours, prompts[0])
    ways = {
        "alone": [generate(model, [row], [[1] * len(row)], **greedy)[0] for row in prompts] == expected,
        "batch padded on the left": same_in_batch(generate(model, padded, mask, **greedy), rows, [], PAD),
        "beams": first(**beams) == best_beams(logits),
        "samples": seeded(1, drawn) == seeded(1, partial(samples, logits)),
        "seeds": seeded(1, drawn) == seeded(1, drawn) != seeded(2, drawn),
    }
    return [way for way, same in ways.items() if not same]


def differing_texts(model: ORTModelForCausalLM, ours: doge_export.Model, folder: Path, rows: list[Row]) -> list[str]:
    """The ways in which the pipeline writes other texts than our own runtime; both stop at the folder's ends."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    penalty = rows[0]["repetition_penalty"]
    greedy = {"max_new_tokens": 24, "do_sample": False, "repetition_penalty": penalty, "return_full_text": False}
    greedy["clean_up_tokenization_spaces"] = (
        False  # the pipeline's default cleans up whatever the tokenizer's file says
    )
    options: GenerationOverrides = {"max_new_tokens": 24, "temperature": 0.0, "repetition_penalty": penalty}
    texts = [ours.tokenizer.decode(row["prompt"]) for row in rows[:TEXTS]]
    expected = [ours.generate(text, **options).text for text in texts]
    ways = {"pipeline": [write(text, **greedy)[0]["generated_text"] for text in texts] == expected}
    if penalty == 1 and rows[0]["batch_is_exact"]:  # a penalty would take padding for tokens of the row
        batch = [row[0]["generated_text"] for row in write(texts, batch_size=TEXTS, **greedy)]
        ways["pipeline's batch"] = batch == expected
    if ours.has_chat_template:
        ways["pipeline's chat"] = write(QUESTION, **greedy)[0]["generated_text"] == ours.chat(QUESTION, **options).text
    return [way for way, same in ways.items() if not same]


def check(name: str) -> list[str]:
    """The ways in which a folder's answers differ."""
    folder, rows = WORK / name, TABLE[name]
    model = ORTModelForCausalLM.from_pretrained(folder)
    ours = doge_export.load(WORK / name.removesuffix(INT8_STATE), threads=1, operators=False)
    return differing_tokens(model, ours, rows) + differing_texts(model, ours, folder, rows)


if __name__ == "__main__":
    failed = 0
    for folder_name in TABLE:
        differing = check(folder_name)
        print(f"optimum {folder_name}: {', '.join(differing) or 'the same tokens'}", flush=True)
        failed += bool(differing)
    sys.exit(failed)
