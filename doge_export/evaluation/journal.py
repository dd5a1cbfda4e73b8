"""Finished requests on disk, so that an interrupted evaluation goes on where it stopped.

A journal is a file of JSON lines for one model. The first line names the model; every other line holds the key of a
request and its result. The key is a hash over the kind of request, the whole prompt and its settings. So a result is
used again exactly where the same model is asked the same. `journaled_model` passes the harness's requests through it.
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
    """The finished requests of one model. `results` holds each result by the key of its request."""

    def __init__(self, path: Path, model_hash: str) -> None:
        """Open a journal, or begin one where there is no file.

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
        """Keep a result. It is with the operating system when this returns, so it outlives the process."""
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
        """Read the file. A last line without end, left by a killed process, is removed from the file."""
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
    """A scorer that computes only the scores that its journal does not hold."""

    def __init__(self, scorer: Scorer, journal: Journal) -> None:
        self._scorer, self._journal = scorer, journal

    @property
    def longest(self) -> int:
        """The limit of the scorer; see `Scorer`."""
        return self._scorer.longest

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """Log-probabilities as `Scorer` gives them. JSON keeps a float64 to its last digit, so they stay the same."""
        words = f"log_probs {count} {token_ids.tolist()}"
        key = hashlib.sha256(words.encode()).hexdigest()
        if key not in self._journal.results:
            self._journal.add(key, self._scorer.log_probs(token_ids, count).tolist())
        return np.array(self._journal.results[key], np.float64)
