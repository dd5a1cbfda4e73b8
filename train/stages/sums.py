"""Sums written step by step: conversations to learn from, problems with their keys, and a tokenizer of a sign a token.

    27+48      7+8+0=15, 2+4+1=7: the last digits first, the carry as third number, then the answer in its box

python -m train.sums --output_dir data/sums
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from doge_common.errors import OptionError

from ..files import write_records
from ..rewards import TAGS
from ..stage import run

CONVERSATIONS_FILE, PROBLEMS_FILE, HELD_OUT_FILE = "conversations.jsonl", "problems.jsonl", "held_out.jsonl"
BEGIN, END, PAD, UNKNOWN = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|unknown|>"
SIGNS = (*"0123456789+=,\n}", "\\boxed{")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '=\n' }}{% endif %}{% endfor %}"
)


@dataclass
class SumsArguments:
    """The sums to draw; no two of them are the same, so held-out ones are new to the model."""

    output_dir: str = field(
        metadata={"help": f"Folder of {CONVERSATIONS_FILE}, {PROBLEMS_FILE}, {HELD_OUT_FILE} and the tokenizer."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the files of a stage that output_dir holds."}
    )
    digits: int = field(default=3, metadata={"help": "Most digits of the two numbers; all lengths are as frequent."})
    conversations: int = field(default=1000, metadata={"help": "Sums with all steps."})
    problems: int = field(default=4000, metadata={"help": "Sums with their key alone."})
    held_out: int = field(default=500, metadata={"help": "The same, for measuring."})
    seed: int = field(default=233, metadata={"help": "Draws the sums."})

    def __post_init__(self) -> None:
        for name in ("digits", "conversations", "problems", "held_out"):
            if vars(self)[name] < 1:
                raise OptionError(f"{name} is {vars(self)[name]}; it must be at least 1")
        wanted, there = self.conversations + self.problems + self.held_out, 10 ** (2 * self.digits)
        if 2 * wanted > there:
            raise OptionError(
                f"{wanted} sums are asked for; of {self.digits} digits there are {there}, so ask for half"
            )


def sums(arguments: SumsArguments) -> None:
    """Write the three files and the tokenizer into output_dir."""
    folder = Path(arguments.output_dir)
    sums_tokenizer().save_pretrained(folder)
    counts = {
        CONVERSATIONS_FILE: arguments.conversations,
        PROBLEMS_FILE: arguments.problems,
        HELD_OUT_FILE: arguments.held_out,
    }
    drawn = iter(draw_sums(np.random.default_rng(arguments.seed), sum(counts.values()), arguments.digits))
    for name, count in counts.items():
        record = as_conversation if name == CONVERSATIONS_FILE else as_problem
        write_records(folder / name, (record(*next(drawn)) for _ in range(count)))
        print(f"{count} sums are in {folder / name}")


def draw_sums(rng: np.random.Generator, count: int, digits: int) -> list[tuple[int, int]]:
    """So many different pairs of numbers of 1 to `digits` digits, each length as likely."""
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        first, second = (int(rng.integers(0, 10 ** int(rng.integers(1, digits + 1)))) for _ in range(2))
        found[first, second] = None
    return list(found)


def steps(first: int, second: int) -> str:
    """The sums of digits from the last one on, with the carry: `7+8+0=15, ...` a line each."""
    lines, carry = [], 0
    for place in range(max(len(str(first)), len(str(second)))):
        one, two = first // 10**place % 10, second // 10**place % 10
        lines.append(f"{one}+{two}+{carry}={one + two + carry}")
        carry = (one + two + carry) // 10
    return "\n".join(lines)


def as_conversation(first: int, second: int) -> dict[str, Any]:
    """A sum with its steps, in the published tags."""
    thought, end_of_thought, solution, end_of_solution = TAGS
    answer = (
        f"{thought}\n{steps(first, second)}\n{end_of_thought}\n\n"
        f"{solution}\n\\boxed{{{first + second}}}\n{end_of_solution}"
    )
    question = {"role": "user", "content": f"{first}+{second}"}
    return {"messages": [question, {"role": "assistant", "content": answer}]}


def as_problem(first: int, second: int) -> dict[str, str]:
    """A sum with its key."""
    return {"problem": f"{first}+{second}", "solution": str(first + second)}


def sums_tokenizer() -> PreTrainedTokenizerFast:
    """A sign is a token, and so is a tag; tags are no special tokens, so completions show them."""
    words = [PAD, BEGIN, END, UNKNOWN, *SIGNS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(sums, SumsArguments, args=args)
