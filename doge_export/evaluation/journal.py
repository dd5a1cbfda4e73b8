"""Finished requests on disk, so that an interrupted evaluation goes on where it stopped.

A journal is a file of JSON lines for one model: the first line says of which, every other one holds the key of a
request and its result. The key is a hash over the kind of request, the whole prompt and its settings, so an answer is
used again exactly where the same model is asked the same. What the harness asks goes through `journaled_model`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluationError
from .perplexity import Scorer

FORMAT_VERSION = 1


class Journal:
    """The finished requests of one model, growing."""

    def __init__(self, path: Path, model_hash: str) -> None:
        """Open or begin a journal.

        Raises:
            EvaluationError: the file is another model's, is not a journal, or cannot be written.
        """
        self.path = path
        self.results: dict[str, Any] = {}
        header = {"format_version": FORMAT_VERSION, "model_hash": model_hash}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.is_file() or path.stat().st_size == 0
            if not is_new:
                self._read(header)
            self._file: TextIO = path.open("a", encoding="utf-8")
            if is_new:
                self._write(header)
        except OSError as error:
            raise EvaluationError(f"the journal {path} cannot be used ({error}); give another --journal") from error

    def add(self, key: str, result: Any) -> None:
        """Keep a result, on disk before this returns to the caller."""
        if key not in self.results:
            self.results[key] = result
            self._write({"key": key, "result": result})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def _read(self, header: dict[str, Any]) -> None:
        """Take in the file; a last line that was cut off in the middle is cut off the file."""
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        try:
            first, *entries = [json.loads(line) for line in complete.splitlines()]
            if first != header:
                raise EvaluationError(
                    f"{self.path} is the journal of another model or version; give another --journal or delete it"
                )
            self.results = {entry["key"]: entry["result"] for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{self.path} is not a journal, or damaged; delete it to begin anew") from error
        if len(complete) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(complete))


class JournaledScorer:
    """A scorer that is asked only what the journal does not know."""

    def __init__(self, scorer: Scorer, journal: Journal) -> None:
        self._scorer, self._journal = scorer, journal

    @property
    def longest(self) -> int:
        """The scorer's."""
        return self._scorer.longest

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """See `Scorer`. JSON holds a float64 to its last digit."""
        words = f"log_probs {count} {token_ids.tolist()}"
        key = hashlib.sha256(words.encode()).hexdigest()
        if key not in self._journal.results:
            self._journal.add(key, self._scorer.log_probs(token_ids, count).tolist())
        return np.array(self._journal.results[key], np.float64)
