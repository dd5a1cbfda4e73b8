"""The golden table: greedy tokens of our own runtime, for folders of every kind. python -m tests.runtimes.table OUT

OUT gets a folder for each export, and table.json: prompts of token ids with the tokens that follow, by folder. The
checks beside this file read the table in their own environments and compare token for token.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

import doge_export
from doge_export.export import ExportOptions, export
from doge_export.runtime.generation_options import GenerationOverrides
from doge_model import DogeConfig, DogeForCausalLM
from tests.helpers.checkpoints import byte_level_llama, save_tokenizer
from tests.helpers.models import FORMS, tiny_config, tiny_model

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
NEW_TOKENS = 24
TEXTS = ("Once upon a time there was a little", "The dog ran", "A", "She said that she would never, ever go")
WINDOW = 128


def random_checkpoint(folder: Path, **form: Any) -> Path:
    """A random Doge for the tokens of a small tokenizer."""
    folder.mkdir()
    vocabulary = len(save_tokenizer(folder))
    tiny_model(**form, vocab_size=vocabulary, keep_window_size=WINDOW).save_pretrained(folder)
    return folder


def llama_checkpoint(folder: Path) -> Path:
    """A random Llama."""
    byte_level_llama().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def exports(work: Path) -> dict[str, ExportOptions]:
    """What is exported, by the name of its folder."""
    tiny, checkpoints = str(CHECKPOINTS / "doge-tiny"), work / "checkpoints"
    checkpoints.mkdir()
    forms = {name.replace(",", "").replace(" ", "-"): form for name, form in FORMS.items()}
    random = {name: str(random_checkpoint(checkpoints / name, **form)) for name, form in forms.items()}
    options = {
        "doge-tiny-fp32": ExportOptions(tiny, work / "doge-tiny-fp32", "fp32", report_tokens=0),
        "doge-tiny-int8": ExportOptions(tiny, work / "doge-tiny-int8", "int8", report_tokens=0),
        "doge-tiny-fp16": ExportOptions(tiny, work / "doge-tiny-fp16", "fp16", report_tokens=0),
        "doge-tiny-kv-int8": ExportOptions(tiny, work / "doge-tiny-kv-int8", "fp32", kv_int8=True, report_tokens=0),
    }
    llama = llama_checkpoint(checkpoints / "llama")
    options["llama-int8"] = ExportOptions(str(llama), work / "llama-int8", "int8", report_tokens=0)
    for name, source in random.items():
        options[name] = ExportOptions(source, work / name, "int8", report_tokens=0)
    return options


def answers(folder: Path) -> list[dict[str, list[int]]]:
    """Prompts and the greedy tokens behind them, by our own runtime; in two pieces too, which may round otherwise."""
    model = doge_export.load(folder, threads=1)
    prompts = [model.tokenizer.encode(text) for text in TEXTS]
    greedy: GenerationOverrides = {
        "max_new_tokens": NEW_TOKENS,
        "temperature": 0.0,
        "ignore_eos": True,
        "repetition_penalty": 1.0,
    }
    rows = [{"prompt": ids, "tokens": model.generate(ids, **greedy).token_ids} for ids in prompts]
    for row in rows:
        state = model.prefill(row["prompt"][:-1]) if len(row["prompt"]) > 1 else None
        row["tokens_in_pieces"] = model.generate(row["prompt"][-1:], state=state, **greedy).token_ids
    return rows


def main(work: Path) -> None:
    """Export, answer, write the table."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    torch.set_num_threads(1)
    table = {}
    for name, options in exports(work).items():
        table[name] = answers(export(options).folder)
        print(f"{name}: {table[name][0]['tokens'][:6]} ...", flush=True)
    shipped = CHECKPOINTS / "doge-20m-10min-int8"
    shutil.copytree(shipped, work / shipped.name)
    table[shipped.name] = answers(work / shipped.name)
    (work / "table.json").write_text(json.dumps(table))


if __name__ == "__main__":
    assert DogeForCausalLM.config_class is DogeConfig
    assert tiny_config().keep_window_size < WINDOW
    main(Path(sys.argv[1]))
