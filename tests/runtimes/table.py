"""The golden table: greedy tokens of our own runtime, for folders of every kind.

    python -m tests.runtimes.table OUT [--all-layers]

OUT gets a folder for each export, and table.json: prompts of token ids with the tokens that follow, by folder. The
checks beside this file read the table in their own environments and compare token for token. A row has:

    prompt             token ids
    repetition_penalty 1 for trained models; random ones would repeat one token, which any context gives
    tokens             those that follow
    tokens_in_pieces   those that follow where the prompt's last token is fed by itself, which may round otherwise
    runners_up, gaps   the second choice in place of each of `tokens`, and how far its logit lies below the first
    rounding           the largest difference between logits of the row fed token by token and fed at once
    batch_is_exact     whether this processor computes rows of a batch as it does one; not always in 4 bits
    beams              the best of three beams by transformers, where PyTorch has the same numbers
    repeating          of two rows of a random model: the same without penalty, which speculation guesses well

A folder whose state has 8 bits has the rows of its sibling with a float32 state, as other runtimes keep that.
chats.json has, by folder, conversations with the text of the chat template, its token ids and our answer.

With --all-layers the folders are the six sizes with all of their layers, some GB. The checks run on them too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

import doge_export
from doge_export import Model
from doge_export.export import ExportOptions, export
from doge_export.runtime.generation_options import GenerationOverrides
from doge_export.runtime.sampling import apply_repetition_penalty
from doge_model import load_checkpoint
from tests.runtimes.folders import CHECKPOINTS, FLOAT_STATE, SHIPPED, WINDOW, exports, whole_exports

NEW_TOKENS = 24
BEAMS = ("doge-tiny-fp32", CHECKPOINTS / "doge-tiny")  # the folder and its checkpoint
BEAM_TOKENS = 8
TEXTS = ("Once upon a time there was a little", "The dog ran", "A", "She said that she would never, ever go")
CHATS = (
    [{"role": "user", "content": "Hello!"}],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who are you?\nSay it."},
        {"role": "assistant", "content": " A dog. "},
        {"role": "user", "content": '"Really", <b>caf\u00e9</b> & {x}?'},
    ],
)
GREEDY: GenerationOverrides = {"max_new_tokens": NEW_TOKENS, "temperature": 0.0, "ignore_eos": True}
UNPENALISED: GenerationOverrides = {**GREEDY, "repetition_penalty": 1.0}
PENALTY = 10.0  # of random models
REPEATING = 2  # their rows that are asked without it too


def prompts(model: Model) -> list[list[int]]:
    """Texts, a single token, special tokens amid others, and as many tokens as leave room for the answer."""
    encode = model.tokenizer.encode
    special = [model.tokenizer.special_id(text) for text in model.tokenizer.special_tokens.values()]
    amid = [*encode(TEXTS[0]), *(token for token in special if token is not None), *encode(TEXTS[1], False)]
    long = encode((CHECKPOINTS / "doge-tiny" / "held_out.txt").read_text(encoding="utf-8")[: 8 * WINDOW])
    room = min(model.decoder.keep_window_size, WINDOW) - NEW_TOKENS
    return [*map(encode, TEXTS), encode("A", False)[:1], amid, long[:room]]


def answers(model: Model, penalty: float) -> list[dict[str, Any]]:
    """The rows of a folder."""
    greedy: GenerationOverrides = {**GREEDY, "repetition_penalty": penalty}
    rows: list[dict[str, Any]] = []
    for ids in prompts(model):
        tokens = model.generate(ids, **greedy).token_ids
        state = model.prefill(ids[:-1]) if len(ids) > 1 else None
        in_pieces = model.generate(ids[-1:], state=state, **greedy).token_ids
        rows.append(compared(model, ids, tokens, penalty) | {"tokens_in_pieces": in_pieces})
    exact = batch_is_exact(model, prompts(model))
    for row in rows[:REPEATING] if penalty != 1 else []:
        tokens = model.generate(row["prompt"], **UNPENALISED).token_ids
        row["repeating"] = compared(model, row["prompt"], tokens, 1.0)
    return [row | {"batch_is_exact": exact} for row in rows]


def compared(model: Model, prompt: list[int], tokens: list[int], penalty: float) -> dict[str, Any]:
    """The part of a row that any way of feeding has."""
    row = {"prompt": prompt, "repetition_penalty": penalty, "tokens": tokens}
    return row | second_choices(model, np.array(prompt), np.array(tokens), penalty)


def batch_is_exact(model: Model, ids: list[list[int]]) -> bool:
    """Whether our runtime finds that rows computed together are those of single steps; else it warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.generate(ids, **GREEDY)
    return not caught


def second_choices(model: Model, prompt: np.ndarray, tokens: np.ndarray, penalty: float) -> dict[str, Any]:
    """`runners_up`, `gaps` and `rounding` of a row; prompt and tokens int64."""
    decoder, state = model.decoder, model.new_state()
    steps = [prompt, *np.split(tokens[:-1], len(tokens) - 1)]
    single = np.concatenate([decoder.forward(state, ids)[-1:].copy() for ids in steps])
    together = decoder.forward(model.new_state(), np.concatenate(steps), "all")[-len(tokens) :].copy()
    for logits in (single, together):
        for index, row in enumerate(logits):
            seen = np.unique(np.concatenate([prompt, tokens[:index]]))
            logits[index] = apply_repetition_penalty(row, seen, penalty)
    order = np.argsort(single, axis=1)
    assert np.array_equal(order[:, -1], tokens), "generate and single steps choose alike"
    ordered = np.take_along_axis(single, order, axis=1)
    return {
        "runners_up": order[:, -2].tolist(),
        "gaps": (ordered[:, -1] - ordered[:, -2]).tolist(),
        "rounding": float(np.abs(together - single).max()),
    }


def beams(rows: list[dict[str, Any]], checkpoint: Path) -> None:
    """Add `beams`, by transformers over the PyTorch model."""
    model = load_checkpoint(str(checkpoint)).model
    for row in rows:
        ids = torch.tensor([row["prompt"]])
        options = {"num_beams": 3, "max_new_tokens": BEAM_TOKENS, "min_new_tokens": BEAM_TOKENS, "do_sample": False}
        found = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, pad_token_id=0, **options)
        row["beams"] = found[0, ids.shape[1] :].tolist()


def chats(model: Model) -> list[dict[str, Any]]:
    """Conversations as the folder's template writes them, and greedy answers."""
    found = []
    for messages in CHATS:
        text = model.chat_template.render(messages)
        answer = model.chat(messages, max_new_tokens=16, temperature=0.0, repetition_penalty=1.0)
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        found.append({"messages": messages, "text": text, "ids": ids, "answer": answer.text})
    return found


def write_table(work: Path, options: Iterator[ExportOptions], more: Iterable[Path] = ()) -> None:
    """Export, answer, write the table. more: folders that are exported already."""
    table: dict[str, list[dict[str, Any]]] = {}
    conversations: dict[str, list[dict[str, Any]]] = {}
    for folder in chain((export(each).folder for each in options), more):
        model = doge_export.load(folder, threads=1, operators=False)
        trained = folder.name.startswith("doge-tiny") or folder.name == SHIPPED.name
        sibling = folder.name.removesuffix(FLOAT_STATE)
        table[folder.name] = table.get(sibling) or answers(model, 1.0 if trained else PENALTY)
        if model.has_chat_template:
            conversations[folder.name] = conversations.get(sibling) or chats(model)
        print(f"{folder.name}: {table[folder.name][0]['tokens'][:6]} ...", flush=True)
    if BEAMS[0] in table:
        beams(table[BEAMS[0]], BEAMS[1])
    (work / "table.json").write_text(json.dumps(table))
    (work / "chats.json").write_text(json.dumps(conversations))


def main() -> None:
    """Make the folder anew."""
    parser = argparse.ArgumentParser(prog="python -m tests.runtimes.table")
    parser.add_argument("out", type=Path)
    parser.add_argument("--all-layers", action="store_true", help="the six sizes with all of their layers")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    torch.set_num_threads(1)
    if args.all_layers:
        write_table(args.out, whole_exports(args.out))
    else:
        write_table(args.out, exports(args.out), [Path(shutil.copytree(SHIPPED, args.out / SHIPPED.name))])


if __name__ == "__main__":
    main()
