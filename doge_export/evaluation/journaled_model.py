"""A model of the harness whose finished requests go into a journal, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook, hash_args

from .journal import Journal


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

    def __init__(
        self,
        lm: LM,
        journal: Journal,
        progress: Callable[[str, int, int], object],
        check_choices: Callable[[list[Instance]], object] = lambda requests: None,
    ) -> None:
        """progress: called with the kind of request, how many are finished and how many there are.

        check_choices: called with the requests of all tasks that choose, before the first is answered.
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
        """The model's."""
        return str(self.lm.tokenizer_name)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The model's."""
        return str(self.lm.apply_chat_template(chat_history, add_generation_prompt))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """See the harness's LM."""
        self._check_choices(requests)
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
