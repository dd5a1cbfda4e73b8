"""Whether the files of an exported folder belong together, as far as can be told without reading the weights.

Every graph holds the same description of its model, so one of another export stands out. The graphs also hold a sample
of the data file, and the report has the size of every file. `doge-export --check` compares every byte.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from doge_common.errors import one_line

from ..errors import PackageError
from ..places import REPORT_FILE
from .description import (
    CLASSIFIER_STEP_FILE,
    DATA_FILE,
    DECODER_FILE,
    DRAFT_FILE,
    LAYERED_FILE,
    METADATA_KEY,
    PORTABLE_FILE,
    RECURRENT_FILE,
    SAMPLE_KEY,
    STEP_FILE,
)
from .sessions import check_files

GRAPHS = (DECODER_FILE, RECURRENT_FILE, DRAFT_FILE)
TOKENIZER_FILE = "tokenizer.json"
# every file that the runtime reads, as patterns
FILES = [
    *GRAPHS,
    STEP_FILE,
    LAYERED_FILE,
    CLASSIFIER_STEP_FILE,
    "onnx/decoder*_adapters.onnx",
    "adapters/*.onnx_adapter",
    DATA_FILE,
    REPORT_FILE,
    "config.json",
    "generation_config.json",
    TOKENIZER_FILE,
]
FILES += [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
]
SAMPLES, SAMPLE_BYTES = 16, 4096
REMEDY = "copy the folder again, or export the checkpoint again"


def check_folder(folder: Path) -> None:
    """Refuse a folder in which a file is missing or is of another export.

    Raises:
        PackageError: there is such a file, which is named.
    """
    for name in GRAPHS:
        check_files(folder / name)
    check_graphs(folder)
    check_data(folder)
    check_report(folder)


def check_graphs(folder: Path) -> None:
    """Refuse graphs of different models; the odd ones out are named, against the plain one where they are as many."""
    files = (*GRAPHS, STEP_FILE, LAYERED_FILE, PORTABLE_FILE)
    graphs = {name: (folder / name).read_bytes() for name in files if (folder / name).is_file()}
    entries = {name: metadata_entry(graph, METADATA_KEY) for name, graph in graphs.items()}
    most = Counter(entries.values()).most_common(1)[0][0]  # of equally many, the first: that of the plain graph
    odd = [name for name, entry in entries.items() if entry != most]
    if odd:
        names = " and ".join(str(folder / name) for name in odd)
        are = "is" if len(odd) == 1 else "are"
        raise PackageError(f"{names} {are} damaged, or of another export than the other graphs; {REMEDY}")


def check_data(folder: Path, graph: str = DECODER_FILE) -> None:
    """Refuse a data file that is not the one of the graphs; graphs of earlier exports do not tell."""
    entry = metadata_entry((folder / graph).read_bytes(), SAMPLE_KEY)
    if entry and entry != json.dumps(sample_of(folder / DATA_FILE)):
        raise PackageError(f"{folder / DATA_FILE} is damaged, or of another export than {graph}; {REMEDY}")


def check_report(folder: Path) -> None:
    """Refuse a folder that lacks a file of its report, or has another data file or tokenizer by their sizes.

    The other files are short texts, which an owner may edit. A folder without a report, of a random model, passes.
    """
    report = folder / REPORT_FILE
    sizes = report_sizes(report) if report.is_file() else {}
    for name, expected in sizes.items():
        path = folder / name
        if any(fnmatch(name, pattern) for pattern in FILES) and not path.is_file():
            raise PackageError(f"{path} is missing; {REMEDY}")
        if name in (DATA_FILE, TOKENIZER_FILE) and path.stat().st_size != expected:
            raise PackageError(
                f"{path} has {path.stat().st_size} bytes, but {expected} in {REPORT_FILE}, so one of the two is "
                f"damaged, or of another export; {REMEDY}"
            )


def report_sizes(report: Path) -> dict[str, Any]:
    """Bytes of every file of an export, by name; none in the report of an early version.

    Raises:
        PackageError: the report is damaged.
    """
    try:
        values = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackageError(f"{report} is damaged ({one_line(error)}); {REMEDY}") from error
    files = values.get("files") if isinstance(values, dict) else None
    return files if isinstance(files, dict) else {}


def metadata_entry(graph: bytes, key: str) -> str:
    """A JSON object without inner ones in the metadata of a graph; empty where there is none.

    The file is searched, not parsed: ONNX stores key and value as they are, with a few bytes between them.
    """
    found = re.search(re.escape(key.encode()) + rb".{1,9}?(\{[^{}]*\})", graph, re.DOTALL)
    return found[1].decode("utf-8", "replace") if found else ""


def sample_of(data: Path) -> dict[str, Any]:
    """The size of a data file, and a hash of pages at equal distances in it: as good as no two models share them."""
    size, digest = data.stat().st_size, hashlib.sha256()
    with data.open("rb") as file:
        for index in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * index // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return {"bytes": size, "sample_sha256": digest.hexdigest()}


def check_tokenizer(folder: Path, tokens: int, vocab_size: int) -> None:
    """PackageError for a tokenizer with more tokens than the model has."""
    if tokens > vocab_size:
        raise PackageError(
            f"{folder / TOKENIZER_FILE} has {tokens} tokens, but the model {vocab_size}, so it belongs to another "
            f"model; {REMEDY}"
        )
