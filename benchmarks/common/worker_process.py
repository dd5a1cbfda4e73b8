"""One contender in a process of its own: python -m benchmarks.common.worker_process KIND MODEL THREADS CONTEXT

The process loads its model, feeds a prompt of 64 tokens, and prints `"first"` at its first token. Then it answers
lines on standard input, in JSON. To `P N` it says the seconds of a prompt of P tokens and of N more greedy tokens. To
`memory` it says its peak in MB, to `processor` the seconds of processor time so far. MODEL is a folder, a .gguf file,
or for transformers a size of the family, such as 20m. Kinds:

- doge-export, and doge-export-spin-US, whose idle threads look for work so many microseconds (-1: onnxruntime's own);
- llama.cpp (its C API) and llama-cpp-python (Llama.generate);
- onnxruntime-genai;
- optimum, over an exported folder;
- transformers-{eager,sdpa}-{fp32,bf16}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SPIN = "doge-export-spin-"
Measure = Callable[[list[int], int], tuple[float, float]]  # prompt, new tokens -> seconds of the prompt, of the steps
Opened = tuple[int, Measure]  # the size of the vocabulary, and the measurement


@dataclass(frozen=True)
class Task:
    """A contender to open: its kind, its model, threads, and the tokens of context to make room for."""

    kind: str
    model: str
    threads: int
    context: int


def doge_export_worker(task: Task) -> Opened:
    """Decoder.forward and argmax."""
    from doge_export.measure.greedy import greedy_steps, new_stream  # noqa: PLC0415 - each process imports one contender
    from doge_export.runtime.decoder import Decoder  # noqa: PLC0415 - the same

    decoder = Decoder(Path(task.model), task.threads or None)

    def tokens_after(ids: list[int]) -> Iterator[int]:
        yield from greedy_steps(new_stream(decoder), np.array(ids))

    def measure(ids: list[int], new_tokens: int) -> tuple[float, float]:
        return timed(tokens_after(ids), new_tokens)

    return decoder.vocab_size, measure


def spinning_worker(task: Task) -> Opened:
    """The same with idle threads that look for work as long as the kind says."""
    import onnxruntime  # noqa: PLC0415 - the same

    from .decoders import changed_sessions  # noqa: PLC0415 - the same

    onnxruntime.set_default_logger_severity(4)  # it would warn of the second value
    microseconds = task.kind.removeprefix(SPIN)
    with changed_sessions(
        lambda options: options.add_session_config_entry("session.intra_op.spin_duration_us", microseconds)
    ):
        return doge_export_worker(task)


def llama_c_worker(task: Task) -> Opened:
    """llama_decode and argmax over its logits in place: the fastest way to drive it from Python."""
    from .llama import bindings  # noqa: PLC0415 - the same

    lc = bindings()
    loaded = lc.llama_model_load_from_file(task.model.encode(), lc.llama_model_default_params())
    params = lc.llama_context_default_params()
    params.n_ctx = params.n_batch = task.context
    params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = task.threads
    context = lc.llama_init_from_model(loaded, params)
    vocab_size = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(loaded))

    def feed(ids: list[int]) -> int:
        tokens = (lc.llama_token * len(ids))(*ids)  # the batch only points to it
        if lc.llama_decode(context, lc.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama_decode failed")
        return int(np.ctypeslib.as_array(lc.llama_get_logits_ith(context, -1), (vocab_size,)).argmax())

    def tokens_after(ids: list[int]) -> Iterator[int]:
        token = feed(ids)
        while True:
            yield token
            token = feed([token])

    def measure(ids: list[int], new_tokens: int) -> tuple[float, float]:
        lc.llama_memory_clear(lc.llama_get_memory(context), True)
        return timed(tokens_after(ids), new_tokens)

    return vocab_size, measure


def llama_python_worker(task: Task) -> Opened:
    """Llama.generate, greedy, as users of llama-cpp-python call it."""
    import llama_cpp  # noqa: PLC0415 - the same

    llama = llama_cpp.Llama(
        task.model, n_ctx=task.context, n_threads=task.threads, n_threads_batch=task.threads, verbose=False
    )

    def measure(ids: list[int], new_tokens: int) -> tuple[float, float]:
        llama.reset()
        return timed(llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0), new_tokens)

    return llama.n_vocab(), measure


def genai_worker(task: Task) -> Opened:
    """onnxruntime-genai's Generator, greedy."""
    import onnxruntime_genai as og  # noqa: PLC0415 - the same

    config = og.Config(task.model)
    session_options = {"intra_op_num_threads": task.threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session_options}}}))
    model = og.Model(config)
    params = og.GeneratorParams(model)

    def tokens_after(generator: Any, ids: list[int]) -> Iterator[None]:
        generator.append_tokens(np.array(ids, np.int32))
        while True:
            generator.generate_next_token()
            yield

    def measure(ids: list[int], new_tokens: int) -> tuple[float, float]:
        total = len(ids) + new_tokens + 2
        params.set_search_options(do_sample=False, max_length=total, min_length=total)  # min_length: no early end
        return timed(tokens_after(og.Generator(model, params), ids), new_tokens)

    vocab_size = json.loads((Path(task.model) / "genai_config.json").read_text())["model"]["vocab_size"]
    return vocab_size, measure


def timed(tokens: Iterator[object], new_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and of the new ones after it."""
    start = time.perf_counter()
    next(tokens)
    first = time.perf_counter()
    for _ in range(new_tokens):
        next(tokens)
    return first - start, time.perf_counter() - first


def transformers_worker(task: Task) -> Opened:
    """generate of transformers' own DogeForCausalLM; its steps take the time that a run with one new token does not."""
    import torch  # noqa: PLC0415 - the same
    import transformers  # noqa: PLC0415 - the same

    from doge_model import preset_config  # noqa: PLC0415 - the same

    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    _, attention, dtype = task.kind.split("-")
    fields = preset_config(task.model).to_dict()
    known = transformers.DogeConfig().to_dict()
    config = transformers.DogeConfig(**{name: fields[name] for name in fields if name in known and name != "dtype"})
    config._attn_implementation = attention
    doge = transformers.DogeForCausalLM(config).eval().to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])

    def generate(ids: Any, new_tokens: int) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            doge.generate(ids, min_new_tokens=new_tokens, max_new_tokens=new_tokens, do_sample=False, pad_token_id=2)
        return time.perf_counter() - start

    def measure(ids: list[int], new_tokens: int) -> tuple[float, float]:
        prompt = torch.tensor([ids])
        first = generate(prompt, 1)
        return first, generate(prompt, new_tokens + 1) - first if new_tokens else 0.0

    return config.vocab_size, measure


def optimum_worker(task: Task) -> Opened:
    """generate of optimum's ORTModelForCausalLM, timed as transformers' is."""
    import onnxruntime  # noqa: PLC0415 - the same
    import torch  # noqa: PLC0415 - the same
    from optimum.onnxruntime import ORTModelForCausalLM  # noqa: PLC0415 - the same

    torch.set_num_threads(task.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    model = ORTModelForCausalLM.from_pretrained(task.model, session_options=options)

    def generate(ids: Any, new_tokens: int) -> float:
        start = time.perf_counter()
        length = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=2, **length)
        return time.perf_counter() - start

    def measure(ids: list[int], new_tokens: int) -> tuple[float, float]:
        prompt = torch.tensor([ids])
        first = generate(prompt, 1)
        return first, generate(prompt, new_tokens + 1) - first if new_tokens else 0.0

    return model.config.vocab_size, measure


def open_worker(task: Task) -> Opened:
    """The contender's vocabulary and its measurement."""
    workers = {
        "doge-export": doge_export_worker,
        "llama.cpp": llama_c_worker,
        "llama-cpp-python": llama_python_worker,
        "onnxruntime-genai": genai_worker,
        "optimum": optimum_worker,
    }
    if task.kind.startswith(SPIN):
        return spinning_worker(task)
    return workers.get(task.kind, transformers_worker)(task)


def main() -> None:
    """Serve measurements until standard input ends."""
    task = Task(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    vocab_size, measure = open_worker(task)
    ids = np.random.default_rng(0).integers(3, vocab_size, size=task.context).tolist()  # 0 to 2 are special
    measure(ids[:64], 0)
    print(json.dumps("first"), flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            from doge_export.measure.machine import peak_rss_mb  # noqa: PLC0415 - not part of a peer's start

            print(json.dumps(peak_rss_mb()), flush=True)
        elif line.strip() == "processor":
            print(json.dumps(time.process_time()), flush=True)
        else:
            prompt, new_tokens = map(int, line.split())
            print(json.dumps(measure(ids[:prompt], new_tokens)), flush=True)


if __name__ == "__main__":
    main()
