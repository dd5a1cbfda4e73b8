"""Example answers: how an export goes on after a few prompts, beside the PyTorch model in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from doge_model import KeepWindowCache

from ..errors import OptionError
from ..runtime.chat_prompt import ChatPrompt
from ..runtime.chat_template import ChatTemplate
from ..runtime.decoder import Decoder
from ..runtime.detokenizer import Detokenizer
from ..runtime.tokenizer import Tokenizer
from .greedy import greedy_steps, new_stream
from .quality import same_tokens
from .torch_stream import torch_stream

if TYPE_CHECKING:
    from doge_model import Checkpoint, DogeForCausalLM

QUESTIONS = ("What is the capital of France?", "Why is the sky blue?", "Write one sentence about the sea.")
BEGINNINGS = ("The capital of France is", "The sky is blue because", "Once upon a time")
EXAMPLE_TOKENS = 32  # of an answer, at most
TOKENS_APART = 12  # of them behind the place where the two part, at most; each costs PyTorch a step in float32


@dataclass(frozen=True)
class ExampleAnswer:
    """The greedy answers of both to one prompt, cut after EXAMPLE_TOKENS or, where they part, TOKENS_APART tokens.

    Attributes:
        prompt: a question, or the beginning of a text.
        is_question: whether it was asked in the chat template.
        fp32: text of the PyTorch model's answer, special tokens left out.
        export: text of the export's answer.
        same_tokens: number of tokens with which both begin.
    """

    prompt: str
    is_question: bool
    fp32: str
    export: str
    same_tokens: int


def example_answers(checkpoint: Checkpoint, decoder: Decoder, folder: Path) -> tuple[ExampleAnswer, ...]:
    """Answers of a folder's decoder and of the checkpoint it was made from; none without a tokenizer.

    Both stay within the window; a prompt that fills it is left out.
    """
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer is None:
        return ()
    ends = end_tokens(checkpoint)
    is_question, prompts = example_prompts(tokenizer)
    found = []
    for prompt, ids in prompts.items():
        room = min(EXAMPLE_TOKENS, decoder.keep_window_size - len(ids))
        if not len(ids) or room < 1:
            continue
        written = until_end(greedy_steps(new_stream(decoder), ids), ends, room)
        same = same_tokens(checkpoint.model, ids, written)
        written = written[: same + TOKENS_APART]
        reference = written if same == len(written) else torch_answer(checkpoint.model, ids, written[:same], ends, room)
        fp32, export = (text_behind(tokenizer, ids, answer) for answer in (reference, written))
        found.append(ExampleAnswer(prompt, is_question, fp32, export, same))
    return tuple(found)


def example_prompts(tokenizer: Tokenizer) -> tuple[bool, dict[str, NDArray[np.int64]]]:
    """Whether the prompts are questions, and token ids int64 [S] by prompt.

    A tokenizer without a default chat template, or one that refuses a single question, gets beginnings of texts.
    """
    if "default" in tokenizer.chat_templates:
        template = ChatTemplate(tokenizer.chat_templates["default"], tokenizer.special_tokens)
        chat = ChatPrompt(template, tokenizer)
        try:
            asked = {text: chat.encode(chat.render([{"role": "user", "content": text}])) for text in QUESTIONS}
        except OptionError:
            pass
        else:
            return True, {text: np.array(ids, np.int64) for text, ids in asked.items()}
    return False, {text: np.array(tokenizer.encode(text), np.int64) for text in BEGINNINGS}


def end_tokens(checkpoint: Checkpoint) -> frozenset[int]:
    """The tokens that end an answer."""
    ends = checkpoint.generation_config.eos_token_id
    return frozenset() if ends is None else frozenset(ends if isinstance(ends, list) else [ends])


def until_end(steps: Iterator[int], ends: frozenset[int], most: int) -> NDArray[np.int64]:
    """Tokens up to the first that ends an answer, at most so many: int64 [n]."""
    tokens: list[int] = []
    for token in islice(steps, most):
        tokens.append(token)
        if token in ends:
            break
    return np.array(tokens, np.int64)


def torch_answer(
    model: DogeForCausalLM, prompt: NDArray[np.int64], begun: NDArray[np.int64], ends: frozenset[int], most: int
) -> NDArray[np.int64]:
    """PyTorch's answer of at most so many tokens, int64 [n]; it is known to begin with the tokens `begun`."""
    steps = greedy_steps(torch_stream(model, KeepWindowCache(model.config)), np.concatenate([prompt, begun]))
    return np.concatenate([begun, until_end(steps, ends, min(TOKENS_APART, most - len(begun)))])


def text_behind(tokenizer: Tokenizer, prompt: NDArray[np.int64], answer: NDArray[np.int64]) -> str:
    """The text of an answer, int64 [n], as it goes on behind a prompt, int64 [S]."""
    detokenizer = Detokenizer(tokenizer)
    for token in prompt:
        detokenizer.push(int(token))
    return "".join(detokenizer.push(int(token)) for token in answer) + detokenizer.finish()
