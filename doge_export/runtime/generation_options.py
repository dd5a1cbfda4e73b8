"""How to generate: one checked set of options, and the defaults that an exported folder brings along."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from ..errors import OptionError, PackageError
from .option_rules import CHECKS, one_or_more_ids

DEFAULT_MAX_NEW_TOKENS = 100
FORMS = ("json_schema", "regex", "grammar")  # options that give an answer a form


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
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logprobs: int | None
    json_schema: Mapping[str, Any] | str | bool | None
    regex: str | None
    grammar: str | None


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

    The names of these and of the next are transformers'. The next obey greedy and sampled answers alike. They know
    the tokens of this call, prompt and answer; of a continued state's earlier tokens only those that a conversation
    remembers. Token ids beyond the vocabulary have no effect.

    min_new_tokens: no end of the answer before so many tokens.
    no_repeat_ngram_size: no n-gram of so many tokens occurs twice in prompt and answer; 0 switches it off.
    suppress_tokens, begin_suppress_tokens: ids that never come, and that are not the answer's first token.
    bad_words_ids: sequences of ids that never come.
    sequence_bias: (sequence of ids, number) pairs; the number is added to the logit that would complete the sequence.
    forced_eos_token_id: ids of which one is the last token, when the answer reaches max_new_tokens.

    The names of the next are OpenAI's.

    logit_bias: numbers added to the logits of token ids, a dictionary; -inf rules a token out.
    presence_penalty: taken from the logits of all tokens that stand in the answer so far, not in its prompt.
    frequency_penalty: the same for each time that a token stands there. Both from -2 to 2; 0 switches them off.
    logprobs: return the log-probability of each token, and of so many best ones, by the model's own logits; None
        returns none.

    The last give an answer a form, so that it is valid wherever it ends by itself; `docs/generation.md` says more. They
    need the extra `structured`, and only one of them can be given.

    json_schema: a JSON schema, as a dictionary or JSON text; True takes any JSON.
    regex: a regular expression for the whole answer.
    grammar: a grammar in llguidance's form of Lark.
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
    logit_bias: tuple[tuple[int, float], ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            object.__setattr__(self, name, check(name, vars(self)[name]))
        given = [name for name in FORMS if vars(self)[name] is not None]
        if len(given) > 1:
            raise OptionError(f"an answer has one form, but {' and '.join(given)} are given; leave all but one away")

    @property
    def has_form(self) -> bool:
        """Whether the answer must have a form."""
        return any(vars(self)[name] is not None for name in FORMS)

    def with_overrides(self, overrides: GenerationOverrides) -> GenerationOptions:
        """A copy with every given (not None) override in place; OptionError for a name or value not allowed."""
        known = [field.name for field in fields(self)]
        for name in overrides:
            if name not in known:
                raise OptionError(f"there is no option {name!r}; the options are {', '.join(known)}")
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        return replace(self, **given)


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
OTHER_FIELDS = (
    *FORMS,
    "temperature",
    "stop",
    "ignore_eos",
    "seed",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
)
SAME_FIELDS = tuple(name for name in CHECKS if name not in OTHER_FIELDS)
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
        return frozenset([] if value is None else one_or_more_ids("eos_token_id", _whole(value)))
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
