"""Small exported folders with the answers of this processor: python -m tests.arm.write_cases FOLDER

Random models of every form in float32, 8 and 4 bits, and a trained one by every recipe. FOLDER is made anew.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType

import doge_export
from doge_export.export import ExportOptions, export
from doge_export.export.decoder_files import fold_model
from doge_export.graph import Plan
from doge_model import DogeForCausalLM
from tests.arm.answers import WAYS, Answers, open_decoder, save_states, ways_of
from tests.arm.texts import spoken
from tests.helpers.checkpoints import add_byte_level_tokenizer, byte_vocabulary, save_gguf, tiny_llama
from tests.helpers.models import FORMS, tiny_model, without_mask, write_model
from tests.helpers.operators import mixed_plan

TRAINED = Path(__file__).parents[2] / "checkpoints" / "doge-tiny"
FOUR_BITS = ("native", "small-doge", "experts")
RECIPES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "int8": {},
    "fp16": {},
    "int4": {"calibration_tokens": 512},
    "kv-int8": {"kv_int8": True},
}
WHOLE_BLOCKS = {"hidden_size": 128, "intermediate_size": 192}


def random_folders(out: Path) -> Iterator[Path]:
    """A random model of each form, written without a tokenizer."""
    for form, fields in FORMS.items():
        for weights in ("fp32", "int8", "int4") if form in FOUR_BITS else ("fp32", "int8"):
            model = tiny_model(**(WHOLE_BLOCKS if weights == "int4" and form == "native" else {}) | fields)
            yield written(model, weights, out / f"{form.replace(', ', ' ').replace(' ', '-')}-{weights}")
    for weights in ("fp32", "int8"):
        yield written(without_mask(tiny_model()), weights, out / f"lifted-{weights}")


def written(model: DogeForCausalLM, weights: str, folder: Path) -> Path:
    """One folder. DogeStep keeps float32 in those of 4 bits, and float16 in those of 8."""
    plan = plan_of_4_bits(model) if weights == "int4" else None
    write_model(model, "int8" if plan else weights, folder, plan=plan, kv_float16=False if plan else None)
    return folder


def plan_of_4_bits(model: DogeForCausalLM) -> Plan:
    """Matrices in 4 and 8 bits; tables of experts, which are looked up in, in 8."""
    folded = fold_model(model)
    plan = {bits: mixed_plan(folded, bits) for bits in (4, 8)}
    return {name: plan[8 if name.endswith("_embed") else 4][name] for name in folded.matrices}


def keep_grid(out: Path) -> Path:
    """A Llama in blocks of 4 bits without zero points."""
    source = out / "llama.gguf"
    llama = tiny_llama(vocab_size=len(byte_vocabulary()), max_position_embeddings=64)
    save_gguf(source, llama, GGMLQuantizationType.Q4_0, add_byte_level_tokenizer)
    options = ExportOptions(str(source), out / "llama-keep-grid", "keep-grid", report_tokens=0)
    return export(options).folder


def trained(out: Path) -> None:
    """A trained model by each recipe, with its answers to texts.

    Of matrices in few bits the standard graphs round activations to 8 bits on some processors and not on others, so
    there they are not asked.
    """
    for recipe, fields in RECIPES.items():
        weights = "fp32" if recipe == "kv-int8" else recipe
        folder = export(
            ExportOptions(str(TRAINED), out / f"trained-{recipe}", weights, report_tokens=0, **fields)
        ).folder
        ways = ways_of(folder) if weights in ("fp32", "fp16") else ["DogeStep"]
        models = {way: doge_export.load(folder, threads=1, operators=WAYS[way]) for way in ways}
        (folder / "texts.json").write_text(json.dumps({way: spoken(model) for way, model in models.items()}))
        print(folder.name, flush=True)


def main(out: Path) -> None:
    """Write every folder and its answers."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    torch.set_num_threads(1)
    for folder in (*random_folders(out), keep_grid(out)):
        for way in ways_of(folder):
            decoder = open_decoder(folder, way)
            Answers.of(decoder).save(folder, way)
            save_states(decoder, folder, way, "x86")
        print(folder.name, flush=True)
    trained(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
