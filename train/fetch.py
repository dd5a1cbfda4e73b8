"""Fetch the files of a recipe's data, each checked by its SHA-256 before it takes its name.

    python -m train.fetch --url https://example.org/texts --config train/recipes/doge-tiny/sft.yaml

The files of doge-tiny and doge-20m-10min were made of public sources (checkpoints/doge-tiny/README.md lists them), and
lie at no public address. So `url` names a folder that holds them: http, https, or file:// for a disk. Data sets of the
hub need no such step, as the stages load them by their names.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from doge_common.errors import DogeError, OptionError

from .command import fail, read_recipe
from .errors import DataError
from .paths import is_data_file

CHECKSUMS = Path(__file__).parent / "recipes" / "sha256.txt"  # in the format of sha256sum
SCHEMES = ("http", "https", "file")
TIMEOUT = 30.0  # seconds without a byte
PIECE = 2**20  # bytes


def main(args: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m train.fetch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--url", required=True, help="Address of the folder of the files, http, https or file.")
    parser.add_argument("--config", required=True, nargs="+", help="Recipes whose files are wanted.")
    parser.add_argument("--data_folder", default="data", help="Folder to write to (default: data).")
    words = parser.parse_args(args)
    try:
        fetch_recipes(words.url, words.config, Path(words.data_folder))
    except DogeError as error:
        fail(error)


def fetch_recipes(url: str, recipes: Sequence[str], data_folder: Path) -> None:
    """Fetch the files of all recipes that data_folder does not hold yet.

    Raises:
        OptionError: url is no address, or a recipe cannot be read.
        DataError: a file cannot be fetched, or is another one.
    """
    if urllib.parse.urlsplit(url).scheme not in SCHEMES:
        raise OptionError(f"url is {url}; it must begin with one of {', '.join(f'{each}://' for each in SCHEMES)}")
    known = read_checksums(CHECKSUMS)
    names = dict.fromkeys(name for recipe in recipes for name in data_files(read_recipe(recipe)))
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"the checksum of {unknown[0]} is missing in {CHECKSUMS}; add it, or copy the file yourself")
    for name in names:
        path = data_folder / name
        if path.is_file() and sha256(path) == known[name]:
            print(f"{path}: there")
            continue
        fetch(f"{url.rstrip('/')}/{urllib.parse.quote(name)}", path, known[name])
        print(f"{path}: fetched, {path.stat().st_size / 1e6:.1f} MB")


def data_files(recipe: dict[str, Any]) -> Iterator[str]:
    """The local files that a recipe reads, relative to its data_folder."""
    for option in ("datasets", "eval_datasets"):
        for source in recipe.get(option) or []:
            path = source.get("path") if isinstance(source, dict) else source
            if isinstance(path, str) and is_data_file(path):
                yield path


def read_checksums(path: Path) -> dict[str, str]:
    """SHA-256 in hexadecimal by file name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line)}


def fetch(address: str, path: Path, expected: str) -> None:
    """Fetch one file. It lies under another name until its checksum is right.

    Raises:
        DataError: it cannot be fetched or written, or is another one.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as source:
            path.parent.mkdir(parents=True, exist_ok=True)  # once there is something to write
            with part.open("wb") as target:
                shutil.copyfileobj(source, target, PIECE)
        if (found := sha256(part)) != expected:
            raise DataError(f"{address} has SHA-256 {found}; it must be {expected}, so the file was left out")
        part.replace(path)
    except (OSError, HTTPException) as error:  # URLError is an OSError
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DataError(f"{address} cannot be fetched: {reason}") from error
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main(sys.argv[1:])
