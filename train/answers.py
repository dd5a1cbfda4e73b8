"""Whether a model's own answers to problems are right, and of the published form."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from doge_model import DogeForCausalLM

from .rewards import FORMAT, is_right

ROWS = 64  # answered at once


@torch.inference_mode()
def answer(
    model: DogeForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[Any], max_new_tokens: int
) -> list[str]:
    """The likeliest answer to each prompt, token by token."""
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts: list[str] = []
    for start in range(0, len(prompts), ROWS):
        inputs = tokenizer.apply_chat_template(
            prompts[start : start + ROWS],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        out = model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        texts += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def right_answers(
    model: DogeForCausalLM, tokenizer: PreTrainedTokenizerBase, records: list[dict[str, Any]], max_new_tokens: int
) -> dict[str, Any]:
    """The share of right answers with its standard error, and the share of the published form."""
    texts = answer(model, tokenizer, [record["prompt"] for record in records], max_new_tokens)
    right = [is_right(text, record["solution"]) for text, record in zip(texts, records, strict=True)]
    share = sum(right) / len(right)
    return {
        "accuracy": share,
        "accuracy_error": (share * (1 - share) / len(right)) ** 0.5,
        "format": sum(FORMAT.fullmatch(text) is not None for text in texts) / len(texts),
    }
