"""The golden table in onnxruntime-genai: python -m tests.runtimes.check_genai WORK, in an environment of its own.

Prompts alone with the cache shared and not, all in one batch padded on the right, and after a rewind. Then come its
n-gram speculation, three beams, chat templates and the end of the window. The exit code is the number of folders that
differ.

Speculation computes several tokens at once, which rounds otherwise than one by one. So `same_within_rounding` compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnxruntime_genai as og

from tests.runtimes.rows import Row, read, same_in_batch, same_within_rounding, until_end

WORK = Path(sys.argv[1])
TABLE, CHATS = read(WORK, "table.json"), read(WORK, "chats.json")
BEYOND = {  # genai's words for one token too many
    "max_length": "max_length (129) cannot be greater than model context_length (128)",
    "prompt": "input_ids size (129) + current sequence length (0) exceeds max length (128)",
}


def search(model: og.Model, row: Row, count: int, **options: object) -> og.GeneratorParams:
    """Greedy up to the length."""
    params = og.GeneratorParams(model)
    length = {"max_length": len(row["prompt"]) + count, "repetition_penalty": row["repetition_penalty"]}
    params.set_search_options(**(length | {"do_sample": False} | options))
    return params


def run(generator: og.Generator, rows: int, count: int) -> list[list[int]]:
    """The next tokens of each row, until all rows have ended."""
    found: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(count):
        if generator.is_done():
            break
        generator.generate_next_token()
        for row, token in zip(found, generator.get_next_tokens(), strict=True):
            row.append(int(token))
    return found


def alone(model: og.Model, row: Row, count: int, **options: object) -> list[int]:
    """One prompt."""
    generator = og.Generator(model, search(model, row, count, **options))
    generator.append_tokens(row["prompt"])
    return run(generator, 1, count)[0]


def rewound(model: og.Model, row: Row, count: int) -> list[int]:
    """One prompt again after its first answer was taken back."""
    prompt = row["prompt"]
    generator = og.Generator(model, search(model, row, count))
    generator.append_tokens(prompt)
    run(generator, 1, count // 2)
    generator.rewind_to(len(prompt) - 1)
    generator.append_tokens(prompt[-1:])
    return run(generator, 1, count)[0]


def speculated(model: og.Model, row: Row, count: int) -> tuple[list[int], int]:
    """One prompt, with up to four guesses from repeated pairs of tokens; and how many guesses were made."""
    params = search(model, row, count)
    params.set_speculative_options(ngram_size=2, max_draft_tokens=4)
    generator = og.Generator(model, params)
    generator.append_tokens(row["prompt"])
    return run(generator, 1, count)[0], generator.get_speculative_stats()["draft_tokens_proposed"]


def best_beam(model: og.Model, row: Row) -> list[int]:
    """The best of three beams, of which none may end early."""
    count, length = len(row["beams"]), len(row["prompt"]) + len(row["beams"])
    generator = og.Generator(model, search(model, row, count, num_beams=3, min_length=length))
    generator.append_tokens(row["prompt"])
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)[len(row["prompt"]) :]]


def together(model: og.Model, rows: list[Row], count: int, pad: int) -> list[list[int]]:
    """All prompts as rows of one batch."""
    width = max(len(row["prompt"]) for row in rows)
    generator = og.Generator(model, search(model, rows[0], count, batch_size=len(rows), max_length=width + count))
    generator.append_tokens([row["prompt"] + [pad] * (width - len(row["prompt"])) for row in rows])
    return run(generator, len(rows), count)


def chats_differ(model: og.Model, name: str) -> bool:
    """Whether the chat template writes another text, or the tokenizer reads it otherwise."""
    tokenizer = og.Tokenizer(model)
    for chat in CHATS.get(name, []):
        text = tokenizer.apply_chat_template(json.dumps(chat["messages"]), add_generation_prompt=True)
        if text != chat["text"] or tokenizer.encode(text).tolist() != chat["ids"]:
            return True
    return False


def message(model: og.Model, length: int, **options: object) -> str:
    """The error of a prompt of some tokens; "" without one."""
    try:
        generator = og.Generator(model, search(model, {"prompt": [], "repetition_penalty": 1.0}, 0, **options))
        generator.append_tokens([5] * length)
        generator.generate_next_token()
    except RuntimeError as error:
        return str(error)
    return ""


def beyond_differs(model: og.Model) -> bool:
    """Whether a stream longer than a window of 128 tokens ends otherwise than in the errors of BEYOND."""
    found = {"max_length": message(model, 1, max_length=129), "prompt": message(model, 129, max_length=128)}
    return found != BEYOND


def check(name: str) -> list[str]:
    """The ways in which a folder's tokens differ."""
    rows, folder = TABLE[name], WORK / name
    model = og.Model(str(folder))
    config = json.loads((folder / "genai_config.json").read_text())["model"]
    ends, count = config["eos_token_id"] or [config["pad_token_id"]], len(rows[0]["tokens"])
    expected = [until_end(row["tokens"], ends) for row in rows]
    pieces = [until_end(row["tokens_in_pieces"], ends) for row in rows]
    repeating = [row.get("repeating", row) for row in rows if row["repetition_penalty"] == 1 or "repeating" in row]
    guessed, guesses = zip(*(speculated(model, row, count) for row in repeating), strict=True)
    batch = together(model, rows, count, config["pad_token_id"])
    differs = {
        "shared buffer": [alone(model, row, count) for row in rows] != expected,
        "buffer not shared": [alone(model, row, count, past_present_share_buffer=False) for row in rows] != expected,
        "batch padded on the right": not same_in_batch(batch, rows, ends, config["pad_token_id"]),
        "rewound": [rewound(model, row, count) for row in rows] != pieces,
        "n-gram speculation": not all(map(same_within_rounding, guessed, repeating, [ends] * len(repeating))),
        "n-gram speculation guessed nothing": sum(guesses) == 0,
        "beams": any(best_beam(model, row) != row["beams"] for row in rows if "beams" in row),
        "chat template": chats_differ(model, name),
        "end of the window": config["context_length"] == 128 and beyond_differs(model),
    }
    turned = sum(found != until_end(row["tokens"], ends) for found, row in zip(guessed, repeating, strict=True))
    if turned and not differs["n-gram speculation"]:
        print(
            f"genai {name}: speculation took the other of two nearly equal tokens in {turned} of {len(guessed)} answers"
        )
    return [way for way, differing in differs.items() if differing]


if __name__ == "__main__":
    failed = 0
    for folder_name in TABLE:
        differing_ways = check(folder_name)
        print(f"genai {og.__version__} {folder_name}: {', '.join(differing_ways) or 'the same tokens'}", flush=True)
        failed += bool(differing_ways)
    sys.exit(failed)
