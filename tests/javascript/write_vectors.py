"""Folders and the answers of Python's runtime to compare with: python -m tests.javascript.write_vectors FOLDER

FOLDER is made anew. It gets the folders, their state files, and vectors.json, which both sides read: `cases` of the
pure functions, `folders` with texts, tokens, logits and states, `adapters` with those of each adapter, and `talks`.
All tokens are those of the standard graphs.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import doge_export
from doge_export import Model
from doge_export.export import ExportOptions, export
from doge_export.runtime.generation_options import GenerationOverrides
from doge_export.runtime.prompts import PromptReader
from tests.helpers.checkpoints import byte_vocabulary, tiny_llama
from tests.javascript.adapters import adapter_folders, adapter_vectors
from tests.javascript.cases import all_cases
from tests.javascript.talks import TALKS, talk_folders, talks
from tests.runtimes.folders import CHECKPOINTS, SHIPPED, llama_checkpoint, random_checkpoint

TINY = CHECKPOINTS / "doge-tiny"
RECIPES: dict[str, dict[str, Any]] = {
    "fp32": {"weights": "fp32"},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4", "calibration_tokens": 1024},
    "fp32-kv-int8": {"weights": "fp32", "kv_int8": True},
}
LEARNED = "bonuses"  # that outlast the window of some keys, beside sinks and safe recent keys
MORE_HEADS = {"qk_norm": False, "num_mask_heads": 4, "num_key_value_heads": 1}  # once the window is full
RANDOM: dict[str, dict[str, Any]] = {
    "native": {},
    "small-doge": MORE_HEADS,
    "window-512": {**MORE_HEADS, "keep_window_size": 512},  # the smallest cache of JavaScript has as many slots
    "experts": {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 6},
    LEARNED: {**MORE_HEADS, "keep_window_size": 48, "keep_bonus": 90, "keep_sinks": 4, "keep_recent": 16},
    "recent": {"keep_recent": 40},
}
LLAMAS: dict[str, dict[str, Any]] = {"llama": {}, "llama-attention-rotates": {"hidden_size": 64}}
PENALTY = 10.0  # of random models, which would repeat one token
SMALL = 512  # the widest window that is filled
BEYOND = 22  # tokens of a prompt that such a window does not hold
TEXTS = ("Once upon a time", " leading and trailing ", "caf\u00e9 \U0001f642 na\u00efve\n\n\tx", "<|im_end|> 12 ab", "")
CHATS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "Hello!"}],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "are you?"}]},
        {"role": "assistant", "content": " A dog. "},
        {"role": "user", "content": '"<|im_end|>", <b>caf\u00e9</b> & {x}?\n<|im_start|>system'},
    ],
)
OPENAI: GenerationOverrides = {
    "temperature": 0.0,
    "presence_penalty": 1.5,
    "frequency_penalty": 0.8,
    "logit_bias": {5: 1.25, 11: -2.0},
    "ignore_eos": True,
    "max_new_tokens": 30,
}
SAMPLED: GenerationOverrides = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.02}


def folders(work: Path) -> Iterator[Path]:
    """A trained model by each recipe, random ones and lifted Llamas with sinks; a window of 128 tokens each."""
    checkpoints = work / "checkpoints"
    checkpoints.mkdir()
    for name, options in RECIPES.items():
        yield export(ExportOptions(str(TINY), work / f"doge-tiny-{name}", report_tokens=0, **options)).folder
    for name, form in RANDOM.items():
        source = random_checkpoint(checkpoints / name, **form)
        yield export(ExportOptions(str(source), work / name, "fp32", report_tokens=0)).folder
    small = ExportOptions(
        str(checkpoints / LEARNED), work / f"{LEARNED}-kv-int8", "fp32", report_tokens=0, kv_int8=True
    )
    yield export(small).folder
    for name, fields in LLAMAS.items():
        llama = tiny_llama(vocab_size=len(byte_vocabulary()), max_position_embeddings=128, **fields)
        source = llama_checkpoint(checkpoints / name, llama)
        yield export(ExportOptions(str(source), work / name, "fp32", report_tokens=0)).folder
    yield Path(shutil.copytree(SHIPPED, work / SHIPPED.name))


def vectors(folder: Path) -> dict[str, Any]:
    """All that is compared of one folder."""
    model = doge_export.load(folder, threads=1, operators=False)
    return {
        "description": {"window": model.context_size, "vocab_size": model.decoder.vocab_size},
        "texts": [texts_of(model, text) for text in TEXTS],
        "chats": [chat_of(model, messages) for messages in CHATS],
        "answers": [answer(model, prompt, seed) for seed, prompt in enumerate(prompts(model, folder))],
        "lookup": looked_up(model, prompts(model, folder)[0]),
        "states": [*states(model, folder, "standard"), *states(with_operators(folder), folder, "step")],
    }


def with_operators(folder: Path) -> Model | None:
    """The folder by DogeStep, where it has it and its state goes on by the standard graphs."""
    if not (folder / "onnx" / "decoder_step.onnx").is_file() or folder.name.endswith("kv-int8"):
        return None
    return doge_export.load(folder, threads=1, operators=True)


def texts_of(model: Model, text: str) -> dict[str, Any]:
    """A text as token ids and back."""
    encode = model.tokenizer.encode
    ids = encode(text)
    plain = {
        "ids": ids,
        "inner": encode(text, add_special_tokens=False),
        "as_text": model.tokenizer.encode_as_text(text),
    }
    return {"text": text, **plain, "decoded": model.tokenizer.decode(ids), "whole": model.tokenizer.decode(ids, False)}


def chat_of(model: Model, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A conversation as text, as token ids, and its answer."""
    prompt, reader = model.chat_prompt, PromptReader(model.tokenizer, model.decoder.vocab_size, model.name)
    rendered = prompt.template.render(messages)
    settings: GenerationOverrides = {**greedy(model), "max_new_tokens": 12}
    answered = model.chat(messages, **settings)
    state = model.new_state()
    turns = [model.chat(CHATS[0], state=state, **settings).text for _ in range(2)]
    ids = reader.message_ids(messages, prompt, frozenset())
    return {"messages": messages, "text": rendered, "ids": ids, "answer": answered.text, "turns": turns}


def greedy(model: Model) -> GenerationOverrides:
    """Settings of a greedy answer."""
    penalty = 1.0 if model.name.startswith("doge-") else PENALTY
    return {"temperature": 0.0, "repetition_penalty": penalty}


def endless(model: Model, tokens: int) -> GenerationOverrides:
    """Settings of a greedy answer of so many tokens."""
    return {**greedy(model), "ignore_eos": True, "max_new_tokens": tokens}


def prompts(model: Model, folder: Path) -> list[list[int]]:
    """One within the window, one at its end and one beyond it; the last two for small windows only."""
    text = (TINY / "held_out.txt").read_text(encoding="utf-8")[:4000]
    ids, window = model.tokenizer.encode(text), model.context_size
    lengths = (5, window - 4, window + BEYOND) if window <= SMALL else (5, 40)
    assert len(ids) >= max(lengths), folder
    return [ids[:length] for length in lengths]


def answer(model: Model, prompt: list[int], seed: int) -> dict[str, Any]:
    """The tokens behind a prompt, and some logits."""
    found = model.generate(prompt, **endless(model, 30))
    sampled: GenerationOverrides = {**SAMPLED, "ignore_eos": True, "max_new_tokens": 30, "seed": seed}
    drawn = model.generate(prompt, **sampled)
    weakened = model.generate(prompt, **OPENAI)
    return {
        "prompt": prompt,
        "greedy": found.token_ids,
        "text": found.text,
        "penalty": greedy(model)["repetition_penalty"],
        "seed": seed,
        "sampled": drawn.token_ids,
        "weakened": weakened.token_ids,
        "logits": model.logits(prompt)[-1].tolist(),
    }


def looked_up(model: Model, prompt: list[int]) -> dict[str, Any]:
    """An answer to a prompt that holds such an answer already, with guesses from it."""
    first = model.generate(prompt, temperature=0.0, ignore_eos=True, max_new_tokens=20).token_ids
    again = [*prompt, *first, *prompt]
    found = model.generate(again, temperature=0.0, ignore_eos=True, max_new_tokens=40, prompt_lookup_num_tokens=5)
    return {"prompt": again, "tokens": found.token_ids}


def states(model: Model | None, folder: Path, way: str) -> Iterator[dict[str, Any]]:
    """Streams that are saved in the midst of an answer, within the window and beyond it, and how they go on."""
    if model is None:
        return
    reader = doge_export.load(folder, threads=1, operators=False)
    for prompt in prompts(model, folder):
        path = folder.parent / f"{folder.name}-{way}-{len(prompt)}.safetensors"
        state = model.prefill(prompt)
        model.generate([7], state=state, **endless(model, 6))
        state.metadata["note"] = "caf\u00e9"
        state.save(path)
        loaded = reader.load_state(path)
        goes_on = reader.generate("", state=loaded, **endless(model, 20))
        sizes = {"position": state.position, "unfed_token": state.unfed_token}
        found = {"tokens": goes_on.token_ids, "penalty": greedy(model)["repetition_penalty"]}
        yield {"file": path.name, "way": way, **sizes, **found}


def main() -> None:
    """Make the folder anew."""
    work = Path(sys.argv[1])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    torch.set_num_threads(1)
    found = {folder.name: vectors(folder) for folder in folders(work)}
    assert len(list(talk_folders(work))) == len({talk.folder for talk in TALKS} - set(found)), "folders of talks"
    adapted = {folder.name: adapter_vectors(folder) for folder in adapter_folders(work)}
    every = {"cases": all_cases(), "folders": found, "adapters": adapted, "talks": talks(work)}
    (work / "vectors.json").write_text(json.dumps(every))


if __name__ == "__main__":
    main()
