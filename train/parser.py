"""TRL's parser, whose help begins with the options of this project; those of TRL and transformers are hundreds."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from trl import TrlParser

PACKAGE = __name__.split(".")[0]


class StageParser(TrlParser):
    """The parser of a stage's command line and recipe."""

    def __init__(self, types: Sequence[type], prog: str) -> None:
        super().__init__(types, prog=prog, usage=f"{prog} [--config RECIPE.yaml] [--OPTION VALUE ...]")
        self.own = {name for kind in types for name in own_fields(kind)}

    def format_help(self) -> str:
        """The help: this project's options, then the inherited ones."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, [], [])
        formatter.add_text("Every option may stand in the recipe. An option of the command line counts before it.")
        own = [action for action in self._actions if action.dest in self.own or action.dest == "output_dir"]
        for title, actions in (
            ("options of this project", own),
            ("options of TRL and transformers", [action for action in self._actions if action not in own]),
        ):
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()


def own_fields(kind: type) -> list[str]:
    """The fields of a class of arguments that this package has defined."""
    ours = [base for base in kind.__mro__ if base.__module__.split(".")[0] == PACKAGE]
    return [name for base in ours for name in inspect.get_annotations(base)]
