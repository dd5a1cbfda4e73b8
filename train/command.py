"""The command line of a stage up to the imports that take seconds: missing files and a used folder are told at once.

The stage checks all of it again, with everything else.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from doge_common.errors import DogeError, OptionError

from .paths import check_data_file, check_no_run, is_data_file


def run_stage(stage: str) -> None:
    """Check the paths of the command line, then run the stage.

    Ctrl-C, a full disk and an output_dir that cannot be written end in one sentence too.
    """
    given: dict[str, Any] = {}
    try:
        given = given_options(sys.argv[1:])
        check_paths(given)
        main = vars(importlib.import_module(f"train.stages.{stage}"))["main"]
        main()
    except DogeError as error:
        fail(error)
    except KeyboardInterrupt:
        print(f"\n{stage} was stopped before its end.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except OSError as error:
        if error.errno != errno.ENOSPC and not is_inside(error.filename, given.get("output_dir")):
            raise
        fail(DogeError(f"{error.filename or 'a file of output_dir'} cannot be written: {error.strerror}"))


def is_inside(file: object, folder: object) -> bool:
    """Whether a path, where there is one, is that of a folder or of something in it."""
    if not isinstance(file, str) or not isinstance(folder, str):
        return False
    return Path(file).absolute().is_relative_to(Path(folder).absolute())


def fail(error: DogeError) -> None:
    """End with the sentence of an error: exit code 2 for an option, 1 for everything else."""
    print(f"Error: {error}", file=sys.stderr)
    raise SystemExit(2 if isinstance(error, OptionError) else 1) from error


def given_options(args: Sequence[str]) -> dict[str, Any]:
    """The options of the recipe, and of the command line over them, as plain values.

    Raises:
        OptionError: the recipe is missing or is no YAML mapping.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    names = dict.fromkeys(word.split("=")[0] for word in args if word.startswith("--"))
    for name in names:
        if name not in ("--config", "--"):
            parser.add_argument(name, nargs="*", default=argparse.SUPPRESS)
    words = vars(parser.parse_known_args(args)[0])
    given = read_recipe(words.pop("config"))
    return given | {name: value[0] if len(value) == 1 else value or True for name, value in words.items()}


def read_recipe(path: str | None) -> dict[str, Any]:
    """The options in a recipe; none without a recipe.

    Raises:
        OptionError: it cannot be read, or is no YAML mapping.
    """
    if path is None:
        return {}
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"config is {path}; it must be a file that can be read: {error}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"config is {path}; it must be YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise OptionError(f"config is {path}; it must be a YAML mapping of options")
    return fields


def check_paths(given: dict[str, Any]) -> None:
    """Refuse data files that are missing, and an output_dir that holds a run.

    Raises:
        DataError: a file is missing.
        OptionError: output_dir holds a run that is neither resumed nor replaced.
    """
    folder = str(given.get("data_folder", "."))
    for option in ("datasets", "eval_datasets"):
        listed = given.get(option) or []
        for source in listed if isinstance(listed, list) else [listed]:
            path = source.get("path") if isinstance(source, dict) else source
            if isinstance(path, str) and is_data_file(path):
                check_data_file(Path(folder, path))
    replaced = str(given.get("overwrite_output_dir", False)).lower() not in ("false", "no", "n", "f", "0")
    if isinstance(given.get("output_dir"), str) and not replaced and given.get("resume_from_checkpoint") is None:
        check_no_run(Path(given["output_dir"]))
