"""A model of the harness whose finished requests go into a journal, one by one.

The harness has a wrapper for the same purpose, `lm_eval.api.model.CachingLM`, which was tried (lm_eval 0.4.13). It
resumes as well as this one: after a SIGKILL neither asked one of 50 finished requests again, in ten runs. It does not
replace this one, for five reasons:

- It stores pickles (sqlitedict). A prepared cache file ran a shell command when it was read.
- Its file does not say which model it belongs to. Another model got the first one's answers, without an error.
- A damaged file ends in sqlite3.DatabaseError; here it is an EvaluationError that names the file.
- It reports no progress, and it asks equal requests again: five equal ones were computed five times, here once.
- Perplexity needs the journal without the harness, so there would be two mechanisms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook, hash_args

from .journal import Journal


class JournalHook(CacheHook):
    """The hook that the harness's models call with every finished request."""

    def __init__(self, finished: Callable[[str, Any], object]) -> None:
        super().__init__(None)
        self._finished = finished

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """Pass a result on. attr: the kind of request. req: its arguments. res: its result."""
        self._finished(hash_args(attr, req), res)


class JournaledLM(LM):
    """A model of the harness that computes only the requests that its journal does not hold."""

    def __init__(
        self,
        lm: LM,
        journal: Journal,
        progress: Callable[[str, int, int], object],
        check_choices: Callable[[list[Instance]], object] = lambda requests: None,
    ) -> None:
        """Wrap a model.

        Args:
            lm: a model that calls its cache hook with every finished request.
            journal: holds the finished requests.
            progress: called with the kind of request, the number of finished ones and the number of all.
            check_choices: called with the requests of all multiple-choice tasks, before the first is answered.
        """
        super().__init__()
        self.lm = lm
        self._journal = journal
        self._progress = progress
        self._check_choices = check_choices
        self._kind, self._finished, self._total = "", 0, 0
        lm.set_cache_hook(JournalHook(self._add))

    @property
    def tokenizer_name(self) -> str:
        """Name of the wrapped model's tokenizer."""
        return str(self.lm.tokenizer_name)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of some messages, by the wrapped model's template."""
        return str(self.lm.apply_chat_template(chat_history, add_generation_prompt))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of each request: log-likelihood of its continuation in nats, and whether greedy decoding gives it."""
        self._check_choices(requests)
        return [(total, greedy) for total, greedy in self._answers("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood, in nats, of each request's whole text."""
        return self._answers("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The text that is generated for each request."""
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
                self._journal.add(key, answer)  # for a model that does not call its hook
        return [self._journal.results[key] for key in keys]

    def _add(self, key: str, result: Any) -> None:
        self._journal.add(key, result)
        self._finished += 1
        self._progress(self._kind, self._finished, self._total)
