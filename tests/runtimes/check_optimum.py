"""The golden table in optimum: python check_optimum.py WORK, in an environment of its own (transformers < 4.58).

Prompts alone, all in one batch padded on the left, the best of three beams twice, and the pipeline. The exit code is
the number of folders that differ.
"""

import json
import sys
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer, pipeline
from transformers.utils import logging

logging.set_verbosity_error()
WORK = Path(sys.argv[1])
TABLE = json.loads((WORK / "table.json").read_text())


def generate(model: ORTModelForCausalLM, ids: list[list[int]], mask: list[list[int]], count: int) -> list[list[int]]:
    """Greedy tokens behind rows of one width, whatever token comes."""
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "eos_token_id": None}
    found = model.generate(
        torch.tensor(ids), attention_mask=torch.tensor(mask), pad_token_id=0, repetition_penalty=1.0, **options
    )
    return [row[len(ids[0]) :].tolist() for row in found]


def check(name: str) -> list[str]:
    """The ways in which a folder's tokens differ."""
    rows, folder = TABLE[name], WORK / name
    model = ORTModelForCausalLM.from_pretrained(folder)
    prompts, expected = [row["prompt"] for row in rows], [row["tokens"] for row in rows]
    count, width = len(expected[0]), max(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    ways = {
        "alone": [generate(model, [prompt], [[1] * len(prompt)], count)[0] for prompt in prompts] == expected,
        "batch padded on the left": generate(model, padded, mask, count) == expected,
    }
    beams = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False}
    ways["beams"] = torch.equal(*(model.generate(torch.tensor([prompts[0]]), **beams) for _ in range(2)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.decode(prompts[0], skip_special_tokens=True)
    written = pipeline("text-generation", model=model, tokenizer=tokenizer)(text, max_new_tokens=4, do_sample=False)
    ways["pipeline"] = written[0]["generated_text"].startswith(text)
    return [way for way, same in ways.items() if not same]


if __name__ == "__main__":
    failed = 0
    for folder_name in TABLE:
        differing = check(folder_name)
        print(f"optimum {folder_name}: {', '.join(differing) or 'the same tokens'}", flush=True)
        failed += bool(differing)
    sys.exit(failed)
