"""Perplexity of llama.cpp's own files of the demo model, on the tokens and windows of doge-eval --perplexity.

python benchmarks/llama_perplexity.py Q8_0 Q4_K_M --text doge_export/texts/alice.txt

The GGUF file that the demo is lifted from is requantized by llama.cpp itself; `source` measures it as it is. Its
matrices are in Q4_1, so what a kind adds is added to numbers that lie on a 4-bit grid, as for the demo's exports.
Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
from pathlib import Path

import llama_cpp as lc
import numpy as np
from numpy.typing import NDArray

from doge_export.evaluation.perplexity import perplexity, token_log_probs
from doge_export.texts.token_ids import TEXT_FILE
from doge_model import load_checkpoint
from doge_model.gguf import DEMO, demo_gguf_path

KINDS = {"Q8_0": lc.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_K_M": lc.LLAMA_FTYPE_MOSTLY_Q4_K_M, "F32": lc.LLAMA_FTYPE_ALL_F32}
CONTEXT = 2048  # tokens
BATCH = 256  # tokens fed, and rows of logits kept, at once


class LlamaScorer:
    """Scores by llama.cpp through its C API."""

    longest = CONTEXT

    def __init__(self, path: Path, threads: int) -> None:
        self._model = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = CONTEXT, BATCH, BATCH
        params.n_threads = params.n_threads_batch = threads
        self._context = lc.llama_init_from_model(self._model, params)
        self._vocab_size = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self._model))

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """See `doge_export.evaluation.perplexity.Scorer`."""
        lc.llama_memory_clear(lc.llama_get_memory(self._context), True)
        fed, wanted = token_ids[:-1], token_ids[1:]
        scores = [self._feed(fed[i : i + BATCH], i, wanted[i : i + BATCH]) for i in range(0, len(fed), BATCH)]
        return np.concatenate(scores)[-count:]

    def _feed(self, ids: NDArray[np.int64], start: int, wanted: NDArray[np.int64]) -> NDArray[np.float64]:
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


def requantize(kind: str, path: Path) -> None:
    """Write the demo's file in another kind."""
    params = lc.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = KINDS[kind], True
    if lc.llama_model_quantize(str(demo_gguf_path()).encode(), str(path).encode(), params):
        raise SystemExit(f"llama.cpp could not requantize the demo to {kind}")


def measure(kind: str, ids: list[int], text_bytes: int, threads: int) -> dict[str, float | str | None]:
    """One file's size and perplexity."""
    with tempfile.TemporaryDirectory() as folder:
        path = demo_gguf_path()
        if kind != "source":
            path = Path(folder) / f"{kind}.gguf"
            requantize(kind, path)
        found = perplexity(LlamaScorer(path, threads), ids, text_bytes=text_bytes)
        return {
            "kind": kind,
            "megabytes": path.stat().st_size / 1e6,
            "tokens": found.tokens,
            "window": found.window,
            "stride": found.stride,
            "per_token": found.per_token,
            "stderr": found.stderr,
            "bits_per_byte": found.bits_per_byte,
        }


def main() -> None:
    """Measure each kind that is named; a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["Q8_0", "Q4_K_M"], choices=[*KINDS, "source"])
    parser.add_argument("--text", type=Path, default=TEXT_FILE)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    silent = lc.llama_log_callback(lambda *_: None)
    lc.llama_log_set(silent, ctypes.c_void_p(0))
    lc.llama_backend_init()
    text = options.text.read_text(encoding="utf-8")
    tokenizer = load_checkpoint(DEMO).tokenizer
    assert tokenizer is not None, "the demo has one"
    ids = tokenizer(text)["input_ids"]
    for kind in options.kinds:
        print(json.dumps(measure(kind, ids, len(text.encode()), options.threads)), flush=True)


if __name__ == "__main__":
    main()
