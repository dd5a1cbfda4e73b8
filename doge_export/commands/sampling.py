"""The options of commands that say how to generate, and the keywords that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO, TypeVar, cast

import click

from ..errors import OptionError
from ..runtime.generation_options import GenerationOverrides

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

OPTIONS = (
    click.option("--max-new-tokens", type=int, metavar="N", help="Longest answer, in tokens."),
    click.option("--temperature", type=float, metavar="T", help="Randomness: 0 is greedy, 1 the model's own."),
    click.option("--top-p", type=float, metavar="P", help="Draw from the fewest tokens with this total probability."),
    click.option("--top-k", type=int, metavar="K", help="Draw from the K most probable tokens; 0 is off."),
    click.option(
        "--min-p", type=float, metavar="P", help="Leave out tokens below this share of the best one's probability."
    ),
    click.option("--repetition-penalty", type=float, metavar="R", help="Above 1 weakens tokens already used."),
    click.option("--presence-penalty", type=float, metavar="P", help="Above 0 weakens tokens of the answer so far."),
    click.option("--frequency-penalty", type=float, metavar="P", help="The same for each time that they came."),
    click.option("--no-repeat-ngram-size", type=int, metavar="N", help="Never write N tokens in a row a second time."),
    click.option("--min-new-tokens", type=int, metavar="N", help="Shortest answer, in tokens."),
    click.option("--seed", type=int, metavar="N", help="The same seed gives the same answers."),
    click.option("--greedy", is_flag=True, help="Always the most probable token, like --temperature 0."),
    click.option(
        "--json-schema", type=click.File(encoding="utf-8"), metavar="FILE", help="Answers are JSON by this schema."
    ),
    click.option("--regex", metavar="REGEX", help="Answers match this regular expression."),
    click.option("--grammar", type=click.File(encoding="utf-8"), metavar="FILE", help="Answers follow it, in Lark."),
)


def sampling_options(command: Decorated) -> Decorated:
    """Give a command these options, in their order."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def sampling_overrides(
    *,
    greedy: bool,
    temperature: float | None,
    json_schema: TextIO | None,
    grammar: TextIO | None,
    **others: Any,
) -> GenerationOverrides:
    """The generation keywords that the options of the command line stand for; OptionError when they contradict."""
    if greedy and temperature:
        raise OptionError(f"--greedy and --temperature {temperature:g} contradict each other; give one of them")
    others["json_schema"], others["grammar"] = contents(json_schema), contents(grammar)
    return cast(GenerationOverrides, {"temperature": 0.0 if greedy else temperature, **others})


def contents(file: TextIO | None) -> str | None:
    """The text of a file that was given; OptionError when it is no UTF-8."""
    try:
        return None if file is None else file.read()
    except UnicodeDecodeError as error:
        raise OptionError(f"{file.name if file else ''} is not UTF-8 text; convert it first") from error
