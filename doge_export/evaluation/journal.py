"""Finished requests on disk, so that an interrupted evaluation goes on where it stopped.

A journal is a file of JSON lines for one model: the first line says of which, every other one holds the key of a
request and its result. The key is a hash over the kind of request, the whole prompt and its settings, so an answer is
used again exactly where the same model is asked the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook, hash_args

from ..errors import EvaluationError

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


class JournalHook(CacheHook):
    """What the harness's models call with every finished request."""

    def __init__(self, finished: Callable[[str, Any], object]) -> None:
        super().__init__(None)
        self._finished = finished

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """attr: the kind of request. req: its arguments. res: the result."""
        self._finished(hash_args(attr, req), res)


class JournaledLM(LM):
    """A model of the harness that is asked only what the journal does not know."""

    def __init__(self, lm: LM, journal: Journal, progress: Callable[[str, int, int], object]) -> None:
        """progress: called with the kind of request, how many are finished and how many there are."""
        super().__init__()
        self.lm = lm
        self._journal = journal
        self._progress = progress
        self._kind, self._finished, self._total = "", 0, 0
        lm.set_cache_hook(JournalHook(self._add))

    @property
    def tokenizer_name(self) -> str:
        """The model's."""
        return str(self.lm.tokenizer_name)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The model's."""
        return str(self.lm.apply_chat_template(chat_history, add_generation_prompt))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """See the harness's LM."""
        return [(total, greedy) for total, greedy in self._answers("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """See the harness's LM."""
        return self._answers("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """See the harness's LM."""
        return self._answers("generate_until", requests)

    def _answers(self, kind: str, requests: list[Instance]) -> list[Any]:
        keys = [hash_args(kind, request.args) for request in requests]
        unknown = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in self._journal.results
        }
        self._kind, self._total = kind, len(set(keys))
        self._finished = self._total - len(unknown)
        self._progress(kind, self._finished, self._total)
        if unknown:
            answers = getattr(self.lm, kind)(list(unknown.values()), disable_tqdm=True)
            for key, answer in zip(unknown, answers, strict=True):
                self._journal.add(key, answer)  # a model that does not report every single one
        return [self._journal.results[key] for key in keys]

    def _add(self, key: str, result: Any) -> None:
        self._journal.add(key, result)
        self._finished += 1
        self._progress(self._kind, self._finished, self._total)
