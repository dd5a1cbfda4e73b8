"""The generation settings of a checkpoint: its sampling, and the tokens that begin, end and pad a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from doge_common.errors import CheckpointError, one_line

from .configuration import DogeConfig
from .gguf import GgufFile
from .tensors import read_json

# The largest value of each number of the sampling; the smallest is 0.
SAMPLING = {"temperature": 1e6, "top_p": 1, "top_k": 2**31, "min_p": 1, "repetition_penalty": 1e6}
GGUF_SAMPLING = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_generation_config(folder: Path, config: DogeConfig) -> GenerationConfig:
    """The settings in generation_config.json; special tokens that it leaves out come from the configuration.

    Raises:
        CheckpointError: the file holds values that generation cannot have.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return GenerationConfig.from_model_config(config)
    fields = read_json(path)
    for name in SAMPLING:
        if fields.get(name) is not None:
            check_sampling(fields[name], name, f"{path}: {name}")
    if not isinstance(fields.get("do_sample"), bool | None):
        raise CheckpointError(f"{path}: do_sample is {fields['do_sample']!r}; it must be true or false")
    for name in TOKEN_IDS:
        if fields.get(name) is None:
            fields[name] = vars(config)[name]
        if not is_token_id(fields[name]):
            raise CheckpointError(f"{path}: {name} is {fields[name]!r}; it must be a token id or a list of them")
    try:
        return GenerationConfig.from_dict(fields)
    except (ValueError, TypeError, AttributeError) as error:  # transformers does not check nested settings first
        raise CheckpointError(f"{path}: {one_line(error)}") from error


def gguf_generation_config(file: GgufFile) -> GenerationConfig:
    """The settings in the metadata; the ends of a turn (eot) and of a message (eom) are ends of a text as well.

    llama.cpp samples unless the temperature is 0. Here an author must have stated some sampling, too.

    Raises:
        CheckpointError: the metadata holds values that generation cannot have.
    """
    ends = dict.fromkeys(file.token_id(name) for name in ("eos", "eot", "eom"))
    distinct = [end for end in ends if end is not None]
    fields: dict[str, Any] = {
        "bos_token_id": file.token_id("bos"),
        "eos_token_id": distinct if len(distinct) > 1 else next(iter(distinct), None),
        "pad_token_id": file.token_id("padding"),
    }
    stated = {}
    for ours, theirs in GGUF_SAMPLING.items():
        key = f"general.sampling.{theirs}"
        value = file.number(key)
        if value is not None:
            check_sampling(value, ours, f"{file.path}: {key}")
            stated[ours] = value
    if not stated:
        return GenerationConfig(**fields)
    samples = stated.get("temperature", 1.0) > 0
    return GenerationConfig(**fields, **(stated if samples else {}), do_sample=samples)


def check_sampling(value: object, name: str, given: str) -> None:
    """Refuse a number that no sampling can have; `given` is the name that the user knows it by."""
    if type(value) not in (int, float) or not 0 <= value <= SAMPLING[name]:  # type: ignore[operator]  # a number
        raise CheckpointError(f"{given} is {value!r}; it must be a number from 0 to {SAMPLING[name]}")


def is_token_id(value: object) -> bool:
    """Whether a value is null, a token id or a list of token ids."""
    return value is None or all(type(item) is int for item in (value if isinstance(value, list) else [value]))
