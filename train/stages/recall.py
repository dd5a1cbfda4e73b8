"""Streams for associative recall as conversations, whose answers are the values, and a tokenizer of a word a token.

python -m train.recall --output_dir data/recall --streams 2800
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from doge_common.errors import OptionError

from ..files import write_records
from ..recall_streams import BEGIN, END, PAD, UNKNOWN, RecallStream, Symbols, draw_stream
from ..stage import run

STREAMS_FILE = "streams.jsonl"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %} {% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)


@dataclass
class RecallArguments:
    """The streams to draw."""

    output_dir: str = field(metadata={"help": f"Folder of {STREAMS_FILE} and the tokenizer."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the files of a stage that output_dir holds."}
    )
    streams: int = field(default=2800, metadata={"help": "Number of streams."})
    tokens: int = field(default=512, metadata={"help": "Tokens of a stream."})
    least_pairs: int = field(default=24, metadata={"help": "Fewest pairs of a stream."})
    most_pairs: int = field(default=64, metadata={"help": "Most pairs of a stream."})
    near: float = field(
        default=0.5, metadata={"help": "Share of pairs asked for soon; their distances are uniform in the logarithm."}
    )
    symbols: int = field(default=64, metadata={"help": "Different keys, and as many values and fillers."})
    seed: int = field(default=233, metadata={"help": "Draws the streams."})

    def __post_init__(self) -> None:
        for name in ("streams", "least_pairs", "symbols"):
            if vars(self)[name] < 1:
                raise OptionError(f"{name} is {vars(self)[name]}; it must be at least 1")
        most = min(self.symbols, (self.tokens - 2) // 5)
        if not self.least_pairs <= self.most_pairs <= most:
            raise OptionError(
                f"least_pairs and most_pairs are {self.least_pairs} and {self.most_pairs}; they must be in "
                f"order and at most {most}, for {self.tokens} tokens and {self.symbols} keys"
            )
        if not 0 <= self.near <= 1:
            raise OptionError(f"near is {self.near}; it must be from 0 to 1")


def recall(arguments: RecallArguments) -> Path:
    """Write the streams and their tokenizer into output_dir; return the file of streams."""
    rng, symbols = np.random.default_rng(arguments.seed), Symbols(*[arguments.symbols] * 3)
    folder = Path(arguments.output_dir)
    path = folder / STREAMS_FILE
    recall_tokenizer(symbols, arguments.tokens).save_pretrained(folder)
    counts = (int(rng.integers(arguments.least_pairs, arguments.most_pairs + 1)) for _ in range(arguments.streams))
    streams = (draw_stream(rng, arguments.tokens, pairs, arguments.near, symbols) for pairs in counts)
    write_records(path, ({"messages": as_messages(stream)} for stream in streams))
    print(f"{arguments.streams} streams of {arguments.tokens} tokens are in {path}")
    return path


def as_messages(stream: RecallStream) -> list[dict[str, str]]:
    """The stream as a conversation: the user writes pairs, filler and questions, the assistant the answers."""
    messages, start = [], 1  # the template writes BEGIN
    for place in stream.answers:
        messages.append({"role": "user", "content": " ".join(stream.words[start:place])})
        messages.append({"role": "assistant", "content": stream.words[place]})
        start = place + 1
    if start < len(stream.words):
        messages.append({"role": "user", "content": " ".join(stream.words[start:])})
    return messages


def recall_tokenizer(symbols: Symbols, model_max_length: int) -> PreTrainedTokenizerFast:
    """A word is a token; messages are joined by spaces, and the marks of the template tell answers."""
    tokenizer = Tokenizer(models.WordLevel(symbols.vocabulary(), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(recall, RecallArguments, args=args)
