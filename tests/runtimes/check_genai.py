"""The golden table in onnxruntime-genai: python check_genai.py WORK, in an environment of its own.

Prompts alone with the cache shared and not, all in one batch padded on the right, after a rewind, and with its n-gram
speculation. The exit code is the number of folders that differ.
"""

import json
import sys
from pathlib import Path

import onnxruntime_genai as og

WORK = Path(sys.argv[1])
TABLE = json.loads((WORK / "table.json").read_text())


def search(model: og.Model, prompt: list[int], count: int, **options: object) -> og.GeneratorParams:
    """Greedy up to the length."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + count, do_sample=False, **options)
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


def alone(model: og.Model, prompt: list[int], count: int, share: bool) -> list[int]:
    """One prompt."""
    generator = og.Generator(model, search(model, prompt, count, past_present_share_buffer=share))
    generator.append_tokens(prompt)
    return run(generator, 1, count)[0]


def rewound(model: og.Model, prompt: list[int], count: int) -> list[int]:
    """One prompt again after its first answer was taken back."""
    generator = og.Generator(model, search(model, prompt, count))
    generator.append_tokens(prompt)
    run(generator, 1, count // 2)
    generator.rewind_to(len(prompt) - 1)
    generator.append_tokens(prompt[-1:])
    return run(generator, 1, count)[0]


def together(model: og.Model, prompts: list[list[int]], count: int, pad: int) -> list[list[int]]:
    """All prompts as rows of one batch."""
    width = max(map(len, prompts))
    params = search(model, prompts[0] + [0] * (width - len(prompts[0])), count, batch_size=len(prompts))
    generator = og.Generator(model, params)
    generator.append_tokens([prompt + [pad] * (width - len(prompt)) for prompt in prompts])
    return run(generator, len(prompts), count)


def until_end(tokens: list[int], ends: list[int]) -> list[int]:
    """Tokens up to the first end, at which genai stops."""
    places = [index for index, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def check(name: str) -> list[str]:
    """The ways in which a folder's tokens differ."""
    rows, folder = TABLE[name], WORK / name
    model = og.Model(str(folder))
    config = json.loads((folder / "genai_config.json").read_text())
    prompts, ends = [row["prompt"] for row in rows], config["model"]["eos_token_id"]
    expected = [until_end(row["tokens"], ends) for row in rows]
    count = len(rows[0]["tokens"])
    ways = {
        "shared buffer": [alone(model, prompt, count, share=True) for prompt in prompts],
        "buffer not shared": [alone(model, prompt, count, share=False) for prompt in prompts],
        "batch padded on the right": together(model, prompts, count, config["model"]["pad_token_id"]),
    }
    again = [until_end(rewound(model, prompt, count), ends) for prompt in prompts]
    pieces = [until_end(row["tokens_in_pieces"], ends) for row in rows]
    return ["rewound"] * (again != pieces) + [
        way for way, found in ways.items() if [until_end(row, ends) for row in found] != expected
    ]


if __name__ == "__main__":
    failed = 0
    for folder_name in TABLE:
        differing = check(folder_name)
        print(f"genai {og.__version__} {folder_name}: {', '.join(differing) or 'the same tokens'}", flush=True)
        failed += bool(differing)
    sys.exit(failed)
