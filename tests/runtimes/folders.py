"""The exports of the golden table: every recipe, every published form, lifted Llamas, and the six sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType
from transformers import AutoTokenizer, LlamaForCausalLM

from doge_export.export import ExportOptions
from doge_model import PRESETS, DogeForCausalLM, preset_config
from tests.helpers.checkpoints import add_byte_level_tokenizer, byte_vocabulary, save_gguf, save_tokenizer, tiny_llama
from tests.helpers.models import FORMS, randomize, tiny_model

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
SHIPPED = CHECKPOINTS / "doge-20m-10min-int8"
WINDOW = 128
WHOLE = "Doge-20M"  # the size that keeps all of its layers
LAYERS = 2  # of the other sizes: no layer differs from the next but in its numbers
Options = dict[str, Any]
FLOAT_STATE = "-kv-int8"  # other runtimes give such a folder the float32 state of the folder without this ending
# doge-tiny, trained: by every recipe, and with a state of 8 bits
TRAINED: dict[str, Options] = {
    "fp32": {"weights": "fp32"},
    "int8": {"weights": "int8"},
    "fp16": {"weights": "fp16"},
    "int4": {"weights": "int4", "calibration_tokens": 2048},  # the rows that need it in 8 bits
    "fp32-kv-int8": {"weights": "fp32", "kv_int8": True},
    "int8-kv-int8": {"weights": "int8", "kv_int8": True},
}


def exports(work: Path) -> Iterator[ExportOptions]:
    """The exports into `work`, each into a folder of its name, from checkpoints in work/checkpoints."""
    checkpoints = work / "checkpoints"
    checkpoints.mkdir()
    for name, options in TRAINED.items():
        yield ExportOptions(str(CHECKPOINTS / "doge-tiny"), work / f"doge-tiny-{name}", report_tokens=0, **options)
    for name, source in sources(checkpoints):
        weights = "keep-grid" if source.suffix == ".gguf" else "int8"
        yield ExportOptions(str(source), work / name, weights, report_tokens=0)
    experts = str(checkpoints / "experts")
    yield ExportOptions(experts, work / "experts-fp32", "fp32", report_tokens=0)
    yield ExportOptions(experts, work / "experts-int4", "int4", calibration_tokens=512, report_tokens=0)


def whole_exports(work: Path) -> Iterator[ExportOptions]:
    """The six sizes with all of their layers, some GB of checkpoints and exports.

    Their weights are those that a training begins with, and a mask. In deep models of larger random weights a rounding
    grows from layer to layer, until the export agrees with its checkpoint no more.
    """
    checkpoints = work / "checkpoints"
    checkpoints.mkdir()
    for size in PRESETS:
        torch.manual_seed(0)
        config = preset_config(size)
        config.keep_window_size = WINDOW
        model = DogeForCausalLM(config).eval()
        for layer in model.model.layers:
            layer.self_attn.A.data.normal_(std=0.3)  # zeros would leave the mask away
        source = checkpoints / size.lower()
        model.save_pretrained(source)
        AutoTokenizer.from_pretrained(SHIPPED).save_pretrained(source)
        yield ExportOptions(str(source), work / size.lower(), "int8", report_tokens=0)


def sources(checkpoints: Path) -> Iterator[tuple[str, Path]]:
    """Random checkpoints by their names, written one after the other."""
    for form, fields in FORMS.items():
        name = form.replace(",", "").replace(" ", "-")
        yield name, random_checkpoint(checkpoints / name, **fields)
    vocabulary = len(byte_vocabulary())
    grouped = tiny_llama(vocab_size=vocabulary, max_position_embeddings=WINDOW)
    yield "llama", llama_checkpoint(checkpoints / "llama", grouped)
    rotating = tiny_llama(vocab_size=vocabulary, hidden_size=64, max_position_embeddings=WINDOW)
    yield "llama-attention-rotates", llama_checkpoint(checkpoints / "llama-attention-rotates", rotating)
    model = tiny_llama(vocab_size=vocabulary, max_position_embeddings=WINDOW)
    path = checkpoints / "llama-q4.gguf"
    yield "llama-keep-grid", save_gguf(path, model, GGMLQuantizationType.Q4_0, add_byte_level_tokenizer)
    for size in PRESETS:
        layers = preset_config(size).num_hidden_layers if size == WHOLE else LAYERS
        yield size.lower(), family_checkpoint(checkpoints / size.lower(), size, layers)


def random_checkpoint(folder: Path, **form: Any) -> Path:
    """A random Doge for the tokens of a small tokenizer; its window is WINDOW, unless the form has another."""
    folder.mkdir()
    vocabulary = len(save_tokenizer(folder))
    tiny_model(**({"keep_window_size": WINDOW} | form), vocab_size=vocabulary).save_pretrained(folder)
    return folder


def llama_checkpoint(folder: Path, model: LlamaForCausalLM) -> Path:
    """A random Llama for the same tokens."""
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def family_checkpoint(folder: Path, size: str, layers: int) -> Path:
    """A random Doge with the dimensions of a published size, a small window and the tokenizer of a trained one."""
    config = preset_config(size)
    config.keep_window_size = WINDOW
    config.num_hidden_layers = layers
    model = DogeForCausalLM(config).eval()
    randomize(model, std=1.7 * config.hidden_size**-0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(SHIPPED).save_pretrained(folder)
    return folder
