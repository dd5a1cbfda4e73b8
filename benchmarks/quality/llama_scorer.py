"""llama.cpp as a scorer of texts, to compare perplexity on the very same tokens and windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.llama import bindings
from doge_export.evaluation.perplexity import token_log_probs

BATCH = 256  # tokens fed, and rows of logits kept, at once


class LlamaScorer:
    """Scores by llama.cpp through its C API: a `doge_export.evaluation.perplexity.Scorer`.

    Attributes:
        longest: tokens of the longest sequence it can be given.
    """

    def __init__(self, path: Path, threads: int, longest: int) -> None:
        """Open a GGUF file."""
        self.longest = longest
        self._lc = lc = bindings()
        self._model = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = longest, BATCH, BATCH
        params.n_threads = params.n_threads_batch = threads
        self._context = lc.llama_init_from_model(self._model, params)
        self._vocab_size = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self._model))

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """Of int64 [S] tokens the last `count`, each given all those before it: nats, [count]."""
        self._lc.llama_memory_clear(self._lc.llama_get_memory(self._context), True)
        fed, wanted = token_ids[:-1], token_ids[1:]
        scores = [self._feed(fed[i : i + BATCH], i, wanted[i : i + BATCH]) for i in range(0, len(fed), BATCH)]
        return np.concatenate(scores)[-count:]

    def _feed(self, ids: NDArray[np.int64], start: int, wanted: NDArray[np.int64]) -> NDArray[np.float64]:
        lc = self._lc
        batch = lc.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.logits[i] = int(token), start + i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if lc.llama_decode(self._context, batch):
            raise SystemExit("llama_decode failed")
        logits = np.ctypeslib.as_array(lc.llama_get_logits(self._context), (len(ids), self._vocab_size))
        found = token_log_probs(logits, wanted)
        lc.llama_batch_free(batch)
        return found
