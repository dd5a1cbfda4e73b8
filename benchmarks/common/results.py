"""The first and the last line that every benchmark prints: its machine, and its result with that machine, as JSON."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from doge_export.measure.machine import cpu_name, versions
from doge_export.runtime.threads import usable_cores

Result = dict[str, Any]
PEERS = ("llama-cpp-python", "onnxruntime-genai", "torch", "transformers")  # their versions move figures too


def machine() -> Result:
    """Processor, usable cores, and the versions of all packages whose figures are compared."""
    return {"cpu": cpu_name(), "cores": usable_cores(), **versions(), **installed_versions()}


def installed_versions() -> dict[str, str]:
    """Versions of those of PEERS that are installed."""
    found = {}
    for package in PEERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def announce() -> None:
    """Print the machine: the first line."""
    click.echo(json.dumps(machine()))


def finish(result: Result, out: Path | None = None) -> None:
    """Print a result with its machine as the last line, and write it to a file where one is given."""
    whole = machine() | result
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(whole, indent=1) + "\n")
    click.echo(json.dumps(whole))
