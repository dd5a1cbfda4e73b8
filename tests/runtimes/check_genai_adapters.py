"""Adapters in onnxruntime-genai: python -m tests.runtimes.check_genai_adapters OUT, in an environment of its own.

`og.Adapters` reads the files beside the portable graph with places for them. The exit code is the number of adapters
whose greedy tokens differ from ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnxruntime_genai as og

OUT = Path(sys.argv[1])
FILE = {"model": {"decoder": {"filename": "onnx/model_adapters.onnx"}}}


def main() -> int:
    """Compare the base and every adapter."""
    expected = json.loads((OUT / "expected.json").read_text())
    config = og.Config(str(OUT / "export"))
    config.overlay(json.dumps(FILE))
    model = og.Model(config)
    adapters, wrong = og.Adapters(model), 0
    for path in (OUT / "export/adapters").iterdir():
        adapters.load(str(path), path.stem)
    for name, tokens in expected["tokens"].items():
        found = answer(model, adapters, name, expected["prompt"], len(tokens))
        print(f"genai, adapter {name}: {'equal' if found == tokens else f'{found} instead of {tokens}'}")
        wrong += found != tokens
    return wrong


def answer(model: og.Model, adapters: og.Adapters, name: str, prompt: list[int], count: int) -> list[int]:
    """The greedy tokens behind a prompt; "None" means the base."""
    params = og.GeneratorParams(model)
    length = len(prompt) + count
    params.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = og.Generator(model, params)
    if name != "None":
        generator.set_active_adapter(adapters, name)
    generator.append_tokens(prompt)
    found = []
    for _ in range(count):
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))
    return found


if __name__ == "__main__":
    sys.exit(main())
