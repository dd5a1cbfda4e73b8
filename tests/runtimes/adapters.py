"""A folder with two adapters, and the greedy tokens of our own runtime: python -m tests.runtimes.adapters OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import doge_export
from doge_export.export import ExportOptions, export
from tests.helpers.adapters import doge_of, llama_base, save_random_adapter

NAMES = ("legal", "support")
PROMPT, COUNT = [10, 20, 30, 40, 50], 12


def main(out: Path) -> None:
    """Write the folder and expected.json, unless they are there."""
    if (out / "expected.json").is_file():
        return
    out.mkdir(parents=True)
    llama_base(out / "base")
    for seed, name in enumerate(NAMES):
        save_random_adapter(doge_of(out / "base").model, out / name, out / "base", seed=seed)
    adapters = {name: str(out / name) for name in NAMES}
    export(ExportOptions(str(out / "base"), out / "export", weights="fp32", adapters=adapters, report_tokens=0))
    model = doge_export.load(out / "export", threads=1, operators=False)
    expected = {
        str(name): model.generate(PROMPT, adapter=name, max_new_tokens=COUNT, temperature=0, ignore_eos=True).token_ids
        for name in (None, *NAMES)
    }
    (out / "expected.json").write_text(json.dumps({"prompt": PROMPT, "tokens": expected}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
