"""A byte-level BPE tokenizer with the family's special tokens and chat template.

python -m train.tokenizer --config train/recipes/doge-tiny/tokenizer.yaml
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from doge_common.errors import OptionError

from ..data import DataArguments, load_mixture
from ..stage import run

# In the order of their ids; preset_config has the ids 0, 1 and 2 for beginning, end and padding.
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
)
# Llama 3's split of text before merging, as the family's tokenizer was made from that of Llama 3.2.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = Path(__file__).parents[1] / "chat_template.jinja"


@dataclass
class TokenizerArguments:
    """The arguments of the tokenizer stage."""

    output_dir: str = field(metadata={"help": "Folder of the tokenizer."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the files of a stage that output_dir holds."}
    )
    vocab_size: int = field(default=32768, metadata={"help": "Entries of the vocabulary, special tokens included."})
    model_max_length: int = field(default=2048, metadata={"help": "Tokens of a sequence."})
    seed: int = field(default=233, metadata={"help": "Draws the records of sources whose weight is no whole number."})

    def __post_init__(self) -> None:
        smallest = 256 + len(SPECIAL_TOKENS)
        if self.vocab_size < smallest:
            raise OptionError(
                f"vocab_size is {self.vocab_size}; it must be at least {smallest}, for bytes and special tokens"
            )


def train_tokenizer(arguments: TokenizerArguments, data: DataArguments) -> PreTrainedTokenizerFast:
    """Train on the text of the sources and save in output_dir.

    Raises:
        DataError: a record does not fit, or a source is missing.
        OptionError: the text has too few different words for the vocabulary.
    """
    mixture, _ = load_mixture(data, "text", arguments.seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=arguments.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_texts(mixture), trainer)
    if tokenizer.get_vocab_size() < arguments.vocab_size:
        raise OptionError(
            f"vocab_size is {arguments.vocab_size}; it must be at most {tokenizer.get_vocab_size()}, the entries that "
            "this text yields, or give more text"
        )
    bos = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=SPECIAL_TOKENS[1],
        pad_token=SPECIAL_TOKENS[2],
        model_max_length=arguments.model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
    )
    fast.save_pretrained(arguments.output_dir)
    return fast


def _texts(mixture: Any) -> Iterator[str]:
    for record in mixture:
        yield record["text"]


def main(args: Sequence[str] | None = None) -> None:
    """The command line of the stage."""
    run(train_tokenizer, TokenizerArguments, DataArguments, args=args)
