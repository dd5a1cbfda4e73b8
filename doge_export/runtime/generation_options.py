"""How to generate: one checked set of options, and the defaults that an exported folder brings along."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypedDict

from ..errors import OptionError, PackageError
from .description import DRAFT_TOKENS

DEFAULT_MAX_NEW_TOKENS = 100

# Below this the scaled logits of a float32 model may overflow; sampling is then greedy in all but name.
SMALLEST_TEMPERATURE = 1e-6
# Above this, sums with a bias lose the float32 logits that it is added to.
LARGEST_BIAS = 1e6


class GenerationOverrides(TypedDict, total=False):
    """The keywords of `generate`, `stream` and `chat`; one left out, or None, takes the folder's default."""

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    stop: str | Sequence[str] | None
    ignore_eos: bool | None
    seed: int | None
    prompt_lookup_num_tokens: int | None
    min_new_tokens: int | None
    no_repeat_ngram_size: int | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    bad_words_ids: Sequence[Sequence[int]] | None
    sequence_bias: Sequence[tuple[Sequence[int], float]] | None
    forced_eos_token_id: int | Sequence[int] | None


@dataclass(frozen=True)
class GenerationOptions:
    """The wishes for one generation. A value that is not allowed raises OptionError at construction.

    max_new_tokens: most tokens to sample, at least 1.
    temperature: divides the logits; 0 is greedy, and top_p, top_k and min_p are then not used.
    top_p, top_k, min_p: nucleus, k best, and share of the best token's probability; 1, 0 and 0 switch them off.
    repetition_penalty: weakens tokens that stand in the prompt or the answer; 1 switches it off, greedy obeys it too.
    stop: a string, or several, that end the answer and do not belong to it.
    ignore_eos: go on after an end-of-sequence token.
    seed: the same seed gives the same text; None takes fresh entropy.
    prompt_lookup_num_tokens: guess up to so many tokens from the tokens so far and check them at once, 0 to 7. The
        answer is the same, sooner where it copies; 0 switches it off.

    The names of these and of the others are transformers'. The others obey greedy and sampled answers alike. They know
    the tokens of this call, prompt and answer; of a continued state's earlier tokens only those that a conversation
    remembers. Token ids beyond the vocabulary have no effect.

    min_new_tokens: no end of the answer before so many tokens.
    no_repeat_ngram_size: no n-gram of so many tokens occurs twice in prompt and answer; 0 switches it off.
    suppress_tokens, begin_suppress_tokens: ids that never come, and that are not the answer's first token.
    bad_words_ids: sequences of ids that never come.
    sequence_bias: (sequence of ids, number) pairs; the number is added to the logit that would complete the sequence.
    forced_eos_token_id: ids of which one is the last token, when the answer reaches max_new_tokens.
    """

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    prompt_lookup_num_tokens: int = 0
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    forced_eos_token_id: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, vars(self)[name]))

    def with_overrides(self, overrides: GenerationOverrides) -> GenerationOptions:
        """A copy with every given (not None) override in place; OptionError for a name or value not allowed."""
        known = [field.name for field in fields(self)]
        for name in overrides:
            if name not in known:
                raise OptionError(f"there is no option {name!r}; the options are {', '.join(known)}")
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        return replace(self, **given)


@dataclass(frozen=True)
class _NumberRule:
    kind: type[Integral | Real]
    allows: Callable[[Any], bool]
    allowed: str

    def __call__(self, name: str, value: object) -> int | float:
        # bool is a subclass of int, yet nobody who writes top_k=True means 1.
        if isinstance(value, bool) or not isinstance(value, self.kind) or not self.allows(value):
            raise OptionError(f"{name} is {value!r}; it must be {self.allowed}")
        return int(value) if isinstance(value, Integral) and self.kind is Integral else float(value)


def _seed(name: str, value: object) -> int | float | None:
    rule = _NumberRule(Integral, lambda n: n >= 0, "a whole number of at least 0, or None for fresh entropy")
    return None if value is None else rule(name, value)


def _strings(name: str, value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise OptionError(f"{name} is {value!r}; it must be a string or a list of strings, none of them empty")
    return tuple(texts)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{name} is {value!r}; it must be True or False")
    return value


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(_is_token_id(token_id) for token_id in value):
        raise OptionError(f"{name} is {value!r}; it must be a list of token ids")
    return tuple(int(token_id) for token_id in value)


def _one_or_more_ids(name: str, value: object) -> tuple[int, ...]:
    return _token_ids(name, value if isinstance(value, list | tuple) else [value])


def _sequences(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(ids, list | tuple) and ids for ids in value):
        raise OptionError(f"{name} is {value!r}; it must be a list of lists of token ids, none of them empty")
    return tuple(_token_ids(name, ids) for ids in value)


def _biases(name: str, value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise OptionError(f"{name} is {value!r}; it must be a list of pairs, each of token ids and a number")
    sequences = _sequences(name, [ids for ids, _ in pairs])
    return tuple((ids, float(_BIAS_RULE(name, bias))) for ids, (_, bias) in zip(sequences, pairs, strict=True))


def _is_token_id(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**31


_BIAS_RULE = _NumberRule(
    Real, lambda b: b == -math.inf or abs(b) <= LARGEST_BIAS, f"made of numbers up to {LARGEST_BIAS:g}, or -inf"
)
_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "max_new_tokens": _NumberRule(Integral, lambda n: n >= 1, "a whole number of at least 1"),
    "temperature": _NumberRule(
        Real,
        lambda t: t == 0 or SMALLEST_TEMPERATURE <= t < math.inf,
        f"0 (greedy) or a number of at least {SMALLEST_TEMPERATURE:g}",
    ),
    "top_p": _NumberRule(Real, lambda p: 0 < p <= 1, "a number above 0 and at most 1 (1 switches it off)"),
    "top_k": _NumberRule(Integral, lambda k: k >= 0, "a whole number of at least 0 (0 switches it off)"),
    "min_p": _NumberRule(Real, lambda p: 0 <= p <= 1, "a number from 0 to 1 (0 switches it off)"),
    # beyond these the penalised logits of a float32 model could vanish or overflow
    "repetition_penalty": _NumberRule(
        Real, lambda r: 1e-3 <= r <= 1e3, "a number from 0.001 to 1000 (1 switches it off)"
    ),
    "stop": _strings,
    "ignore_eos": _flag,
    "seed": _seed,
    "prompt_lookup_num_tokens": _NumberRule(
        Integral, lambda n: 0 <= n < DRAFT_TOKENS, f"a whole number from 0 to {DRAFT_TOKENS - 1} (0 switches it off)"
    ),
    "min_new_tokens": _NumberRule(Integral, lambda n: n >= 0, "a whole number of at least 0"),
    "no_repeat_ngram_size": _NumberRule(Integral, lambda n: n >= 0, "a whole number of at least 0 (0 switches it off)"),
    "suppress_tokens": _token_ids,
    "begin_suppress_tokens": _token_ids,
    "bad_words_ids": _sequences,
    "sequence_bias": _biases,
    "forced_eos_token_id": _one_or_more_ids,
}


@dataclass(frozen=True)
class GenerationDefaults:
    """A folder's settings for generation: default options, and the tokens that end a sequence.

    stated: names of the fields of `generation_config.json` that have a value.
    """

    options: GenerationOptions = GenerationOptions()
    eos_token_ids: frozenset[int] = frozenset()
    stated: frozenset[str] = frozenset()

    @classmethod
    def from_folder(cls, folder: Path) -> GenerationDefaults:
        """Read `generation_config.json`; where that is absent, `config.json` names the end-of-sequence token.

        Warns of settings that change transformers' answer and are not offered here. Raises PackageError when a file is
        not a JSON object or holds a value that is not allowed.
        """
        path = folder / "generation_config.json"
        if not path.is_file():
            path = folder / "config.json"
            config = read_json_object(path) if path.is_file() else {}
            return cls(GenerationOptions(), _eos_token_ids(config, path))
        config = read_json_object(path)
        try:
            options = options_from_generation_config(config)
        except OptionError as error:
            raise PackageError(f"{path} holds a value that is not allowed: {error}") from error
        unused = unused_settings(config)
        if unused:
            warnings.warn(f"{path} sets {' and '.join(unused)}, which the runtime does not use", stacklevel=2)
        stated = frozenset(name for name, value in config.items() if value is not None)
        return cls(options, _eos_token_ids(config, path), stated)


# Fields of a generation_config.json that mean the same here, and those of them that are whole numbers.
SAME_FIELDS = tuple(name for name in _CHECKS if name not in ("temperature", "stop", "ignore_eos", "seed"))
WHOLE_FIELDS = frozenset(["max_new_tokens", "top_k", "min_new_tokens", "no_repeat_ngram_size", "forced_eos_token_id"])

# Fields that change transformers' answer and that the runtime has no counterpart for, each with values that change
# nothing; and those that only sampling uses.
UNUSED_FIELDS: dict[str, tuple[object, ...]] = {
    "max_length": (20,),  # the default of transformers 4, where files name it
    "min_length": (0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "token_healing": (False,),
    "forced_bos_token_id": (),
    "exponential_decay_length_penalty": (),
    "watermarking_config": (),
    "dola_layers": (),
    "constraints": (),
    "force_words_ids": (),
    "max_time": (),
}
UNUSED_SAMPLING_FIELDS: dict[str, tuple[object, ...]] = {
    "typical_p": (1,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}


def options_from_generation_config(config: Mapping[str, Any]) -> GenerationOptions:
    """The options that a `generation_config.json` stands for, every field read as transformers reads it.

    Without `do_sample` the answer is greedy whatever the other fields say. An absent or null field has transformers'
    own default, which for top_k is 50. A whole number may be written as 50.0. Raises OptionError for a value that is
    not allowed.
    """
    given = {
        name: _whole(value) if name in WHOLE_FIELDS else value for name, value in config.items() if value is not None
    }
    options = {"top_k": 50} | {name: given[name] for name in SAME_FIELDS if name in given}
    options.pop("prompt_lookup_num_tokens", None)  # changes no answer; there it may be larger than here
    options["stop"] = given.get("stop_strings", ())
    options["temperature"] = given.get("temperature", 1.0) if given.get("do_sample", False) else 0.0
    return GenerationOptions(**options)


def unused_settings(config: Mapping[str, Any]) -> list[str]:
    """Names of the settings in a `generation_config.json` that change transformers' answer, but not the runtime's."""
    fields = UNUSED_FIELDS | (UNUSED_SAMPLING_FIELDS if config.get("do_sample") else {})
    given = [name for name, neutral in fields.items() if config.get(name) is not None and config[name] not in neutral]
    # There, too, max_new_tokens comes before max_length.
    return [name for name in given if name != "max_length" or config.get("max_new_tokens") is None]


def _eos_token_ids(config: Mapping[str, Any], path: Path) -> frozenset[int]:
    value = config.get("eos_token_id")
    try:
        return frozenset([] if value is None else _one_or_more_ids("eos_token_id", _whole(value)))
    except OptionError as error:
        raise PackageError(f"{path} holds a value that is not allowed: {error}") from error


def _whole(value: Any) -> Any:
    """A number written as 50.0 as 50, in a list too; anything else as it is."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`; PackageError when it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} cannot be read as JSON ({error}); export the model again") from error
    if not isinstance(content, dict):
        raise PackageError(
            f"{path} holds a JSON {type(content).__name__}; it must be an object, so export the model again"
        )
    return content
