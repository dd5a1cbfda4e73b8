"""Figures of a trained checkpoint: held-out perplexity, preferences, right answers, the spread of its mask, samples.

    python -m train.measure --model_name_or_path runs/doge-tiny/sft --datasets data/stories.txt --kind text \\
        --keep_window_sizes 64 256 --prompts "Once upon a time"

With eval_share, the records are those that a stage with the same share and seed has held out. The last line printed is
one JSON object with all figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, set_seed

from doge_common.errors import OptionError
from doge_model import DogeForCausalLM
from doge_model.mask import numbers_of_key

from ..answers import right_answers
from ..arguments import ModelArguments
from ..data import DataArguments, load_mixture
from ..records import KINDS
from ..stage import load_model, run
from ..templates import check_template, marked_template


@dataclass
class MeasureArguments:
    """The figures to measure, and the records to measure them on."""

    kind: str = field(default="text", metadata={"help": "Kind of the records.", "choices": list(KINDS)})
    max_records: int = field(default=200, metadata={"help": "Number of records to measure on, chosen by the seed."})
    max_length: int = field(default=1024, metadata={"help": "Number of tokens of a record that are read."})
    keep_window_sizes: list[int] = field(
        default_factory=list, metadata={"help": "Further windows to measure perplexity with."}
    )
    prompts: list[str] = field(default_factory=list, metadata={"help": "Texts to go on with, or questions to answer."})
    max_new_tokens: int = field(
        default=100, metadata={"help": "Number of tokens of a sample, or of the answer to a problem."}
    )
    seed: int = field(
        default=233, metadata={"help": "Draws the records that are held out and measured, and the samples."}
    )

    def __post_init__(self) -> None:
        if any(window < 1 for window in self.keep_window_sizes):
            raise OptionError(f"keep_window_sizes are {self.keep_window_sizes}; each must be at least 1")


def measure(arguments: ModelArguments, data: DataArguments, options: MeasureArguments) -> dict[str, Any]:
    """Measure a checkpoint on records; print and return the figures.

    Raises:
        CheckpointError: the checkpoint is missing or does not fit.
        DataError: a record does not fit, or a source is missing.
        OptionError: no record has anything to predict, or the chat template does not mark answers.
    """
    model, tokenizer = load_model(arguments)
    check_windows(options.keep_window_sizes, model.config.keep_sinks)
    if options.kind == "problem":
        check_template(tokenizer, arguments.model_name_or_path)
    elif options.kind != "text":
        mark_answers(tokenizer, arguments.model_name_or_path)
    train, held_out = load_mixture(data, options.kind, options.seed)
    records = train if held_out is None else held_out.shuffle(seed=options.seed)
    records = list(records.select(range(min(options.max_records, len(records)))))
    result: dict[str, Any] = {"model": arguments.model_name_or_path, "records": len(records)}
    if options.kind == "preference":
        result |= preferences(model, tokenizer, records, options.max_length)
    elif options.kind == "problem":
        result |= right_answers(model, tokenizer, records, options.max_new_tokens)
    else:
        result |= perplexity(model, tokenizer, records, options.max_length)
        result["perplexity_without_mask"] = perplexity_without_mask(model, tokenizer, records, options.max_length)
        for window in options.keep_window_sizes:
            with keep_window_size(model, window):
                narrow = perplexity(model, tokenizer, records, options.max_length)
                plain = perplexity_without_mask(model, tokenizer, records, options.max_length)
            result[f"perplexity_with_window_{window}"] = narrow["perplexity"]
            result[f"perplexity_with_window_{window}_without_mask"] = plain
        result |= mask_spread(model, tokenizer, records, options.max_length)
    set_seed(options.seed)
    result["samples"] = [sample(model, tokenizer, prompt, options) for prompt in options.prompts]
    print(json.dumps(result, ensure_ascii=False))
    return result


def check_windows(windows: list[int], keep_sinks: int) -> None:
    """Refuse windows that the model's sinks would fill.

    Raises:
        OptionError: there is one.
    """
    if min(windows, default=keep_sinks + 1) <= keep_sinks:
        raise OptionError(
            f"keep_window_sizes are {windows}; each must be at least {keep_sinks + 1}, above the model's keep_sinks"
        )


def mark_answers(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give the chat template marks around answers, by which `encode` finds them.

    Raises:
        OptionError: there is no default template, or it has no marks and TRL cannot add them.
    """
    check_template(tokenizer, name)
    tokenizer.chat_template = marked_template(tokenizer)
    if tokenizer.chat_template is None:
        raise OptionError(
            f"the chat template of {name} does not mark answers with {{% generation %}}; give it the marks"
        )


def encode(tokenizer: PreTrainedTokenizerBase, record: dict[str, Any], max_length: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 [1, T] of a document or conversation, and labels [1, T], -100 where nothing is predicted."""
    if "text" in record:
        ids = torch.tensor([(*tokenizer(record["text"])["input_ids"], tokenizer.eos_token_id)])[:, :max_length]
        return ids, ids
    out = tokenizer.apply_chat_template(record["messages"], return_dict=True, return_assistant_tokens_mask=True)
    ids, answer = torch.tensor([out["input_ids"]]), torch.tensor([out["assistant_masks"]])
    return ids[:, :max_length], ids.masked_fill(answer == 0, -100)[:, :max_length]


@torch.inference_mode()
def log_probabilities(model: DogeForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """The log-probability of every label that is not -100, given all tokens before it.

    ids and labels int64 [1, T] -> float32 [N].
    """
    logits = model(ids, use_cache=False).logits[0, :-1].float()
    wanted = labels[0, 1:] != -100
    return logits[wanted].log_softmax(-1).gather(-1, labels[0, 1:][wanted, None])[:, 0]


def perplexity(
    model: DogeForCausalLM, tokenizer: PreTrainedTokenizerBase, records: list[dict[str, Any]], max_length: int
) -> dict[str, Any]:
    """exp of the mean negative log-probability per token (of answers alone, for conversations)."""
    parts = [log_probabilities(model, *encode(tokenizer, record, max_length)) for record in records]
    every = torch.cat(parts)
    if not len(every):
        raise OptionError(f"no record has anything to predict within max_length ({max_length}); raise it")
    return {"tokens": len(every), "perplexity": math.exp(-every.mean().item())}


@contextmanager
def keep_window_size(model: DogeForCausalLM, size: int) -> Iterator[None]:
    """Give the model another window, and its own one back afterwards, also after an error."""
    own = model.config.keep_window_size
    model.config.keep_window_size = size
    try:
        yield
    finally:
        model.config.keep_window_size = own


@contextmanager
def without_mask(model: DogeForCausalLM) -> Iterator[None]:
    """Give the model A = 0, and its own A back afterwards, also after an error.

    With A = 0 every dt is 1, so the most recent keys are kept.
    """
    mask = [parameter for name, parameter in model.named_parameters() if name.endswith("self_attn.A")]
    learned = [parameter.detach().clone() for parameter in mask]
    try:
        for parameter in mask:
            parameter.data.zero_()
        yield
    finally:
        for parameter, values in zip(mask, learned, strict=True):
            parameter.data.copy_(values)


def perplexity_without_mask(
    model: DogeForCausalLM, tokenizer: PreTrainedTokenizerBase, records: list[dict[str, Any]], max_length: int
) -> float:
    """Perplexity with A = 0 and all other weights as they are."""
    with without_mask(model):
        plain: float = perplexity(model, tokenizer, records, max_length)["perplexity"]
    return plain


def preferences(
    model: DogeForCausalLM, tokenizer: PreTrainedTokenizerBase, records: list[dict[str, Any]], max_length: int
) -> dict[str, Any]:
    """How often the chosen answer is likelier than the rejected one, as a whole and per token.

    Pairs without an answer within max_length, or with two answers that are equal within it, are not counted.
    """
    whole, per_token = [], []
    for record in records:
        pair = [
            encode(tokenizer, {"messages": record["prompt"] + record[name]}, max_length)
            for name in ("chosen", "rejected")
        ]
        if torch.equal(pair[0][0], pair[1][0]):
            continue
        scores = [log_probabilities(model, ids, labels) for ids, labels in pair]
        if all(len(score) for score in scores):
            whole.append(scores[0].sum() > scores[1].sum())
            per_token.append(scores[0].mean() > scores[1].mean())
    if not whole:
        raise OptionError(f"no answer has anything to predict within max_length ({max_length}); raise it")
    share = [torch.stack(wins).float().mean().item() for wins in (whole, per_token)]
    return {"pairs": len(whole), "chosen_likelier": share[0], "chosen_likelier_per_token": share[1]}


@torch.inference_mode()
def mask_spread(
    model: DogeForCausalLM, tokenizer: PreTrainedTokenizerBase, records: list[dict[str, Any]], max_length: int
) -> dict[str, Any]:
    """For each layer and mask head, A and the 1st, 50th and 99th percentile of dt over the tokens of the records."""
    seen: list[list[Tensor]] = [[] for _ in model.model.layers]
    for record in records:
        cache = model(encode(tokenizer, record, max_length)[0], use_cache=True).past_key_values
        for dt, layer in zip(seen, cache.layers, strict=True):
            states = layer.keys[0, :, :, model.config.head_dim :]  # [G, T, N M / G]: dt, then precedence
            dt.append(states.chunk(numbers_of_key(model.config.keep_bonus), dim=-1)[0].transpose(1, 2).flatten(0, 1))
    quantiles = torch.tensor([0.01, 0.5, 0.99])
    spread = [torch.cat(dt, dim=1)[:, :100_000].quantile(quantiles, dim=1).T.tolist() for dt in seen]
    a = [parameter.tolist() for name, parameter in model.named_parameters() if name.endswith("self_attn.A")]
    return {"A": a, "dt_1_50_99_percent": spread}


def sample(
    model: DogeForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: str, options: MeasureArguments
) -> dict[str, str]:
    """An answer to a prompt with the settings of the model card: temperature 0.8, top_p 0.9.

    Unless the records are texts, the prompt is put into the chat template.
    """
    if options.kind == "text":
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    else:
        turn = [{"role": "user", "content": prompt}]
        ids = torch.tensor([tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=options.max_new_tokens,
        do_sample=True,
        temperature=0.8,
        top_p=0.9,
    )
    return {"prompt": prompt, "text": tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)}


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(measure, ModelArguments, DataArguments, MeasureArguments, args=args)
