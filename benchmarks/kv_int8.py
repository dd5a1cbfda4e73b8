"""What a state in 8 bits saves and costs: python benchmarks/kv_int8.py smollm2-135m --weights int8 --threads 1

Exports a model with a float32 state and with states in 8 bits: with a scale per channel, as `--kv-int8` does it, with
one per layer (quality and speed), and per channel with no room for the rotation (quality). Quality is measured on
texts/alice.txt (the scales are made of texts/calibration.txt), in several streams; the standard error is of the
mean difference per token. Speed is of decoding steps behind so many tokens, and of prompts, in turn in one process.
The last line is one JSON object.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from doge_export.bench.machine import cpu_name
from doge_export.export.decoder_files import write_decoder
from doge_export.graph import KeyValueScales
from doge_export.measure.agreement import kl_divergence, log_softmax
from doge_export.quantization.state_scales import measure_scales, scale_sequences
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DECODER_FILE
from doge_export.runtime.state import State
from doge_export.texts.token_ids import long_text
from doge_model import Checkpoint, load_checkpoint

PIECE = 128  # tokens
STEPS = 16
PROMPTS = (512, 2000)  # tokens
ROUNDED = ("per channel", "per layer")

Json = dict[str, object]


@click.command()
@click.argument("model", default="smollm2-135m")
@click.option("--weights", default="int8", show_default=True)
@click.option("--tokens", default=4096, show_default=True, help="Of the text that quality is measured on; 0: none.")
@click.option("--stream", default=1024, show_default=True, help="Tokens of a stream of that text.")
@click.option("--contexts", default="128,1024,2000", show_default=True, help="Tokens before the steps that are timed.")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=9, show_default=True, help="Of the timings; 0: none.")
def main(model: str, weights: str, tokens: int, stream: int, contexts: str, threads: int, rounds: int) -> None:
    """Compare a state in 8 bits with one in float32."""
    click.echo(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}, {threads} thread(s), {model} {weights}")
    checkpoint = load_checkpoint(model)
    with tempfile.TemporaryDirectory() as name:
        decoders = {kind: Decoder(path, threads) for kind, path in write(checkpoint, weights, Path(name)).items()}
        result: Json = {"model": model, "weights": weights, "threads": threads, "memory": memory(decoders)}
        if tokens:
            result["quality"] = quality(checkpoint, decoders, tokens, stream)
        del decoders["per channel, no room to rotate"]
        if rounds:
            result["steps"] = {n: speed(decoders, int(n), rounds) for n in contexts.split(",")}
            result["prompts"] = {n: prompts(decoders, n, rounds) for n in PROMPTS}
    click.echo(json.dumps(result))


def write(checkpoint: Checkpoint, weights: str, folder: Path) -> dict[str, Path]:
    """Folders with the decoders to compare, by what their states are."""
    sequences = scale_sequences(checkpoint, None, seed=0)
    scales = measure_scales(checkpoint.model, sequences)
    tight = measure_scales(checkpoint.model, sequences, room_to_rotate=False)
    kinds = {
        "float32": None,
        "per channel": scales,
        "per channel, no room to rotate": tight,
        "per layer": KeyValueScales(*(one_per_layer(part) for part in (tight.keys, tight.values)), tight.dt),
    }
    folders = {kind: folder / kind for kind in kinds}
    for kind, path in folders.items():
        write_decoder(checkpoint.model, weights, path, kinds[kind])
    if not checkpoint.model.get_parameter("model.layers.0.self_attn.A").any():
        use_kernel_of_one_scale(folders["per layer"] / DECODER_FILE)
    return folders


def one_per_layer(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest of each layer, for all its heads and channels."""
    return np.broadcast_to(scales.max(axis=(1, 2), keepdims=True), scales.shape).copy()


def use_kernel_of_one_scale(path: Path) -> None:
    """Make a decoder file whose scales are equal within a layer use the kernel that takes one (it is faster)."""
    model = onnx.load(path, load_external_data=False)
    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in (node for node in model.graph.node if node.op_type == "GroupQueryAttention"):
        for attribute in (attribute for attribute in node.attribute if attribute.name.endswith("quant_type")):
            attribute.CopyFrom(helper.make_attribute(attribute.name, "PER_TENSOR"))
        for name in node.input[-2:]:
            value = numpy_helper.to_array(constants[name]).reshape(-1)[:1]
            constants[name].CopyFrom(numpy_helper.from_array(value, name))
    path.write_bytes(model.SerializeToString())


def memory(decoders: dict[str, Decoder]) -> Json:
    """Bytes of a token's keys and values, and of all that a state can take."""
    found: Json = {}
    for kind in ("float32", "per channel"):
        state = decoders[kind].new_state()
        slots = state.cache.shape[3]
        beside = 0 if state.precedence is None else state.precedence.nbytes
        found[kind] = {"bytes_per_token": (state.cache.nbytes + beside) / slots, "state_bytes": state.nbytes}
    return found


def quality(checkpoint: Checkpoint, decoders: dict[str, Decoder], tokens: int, length: int) -> Json:
    """Change of perplexity and KL divergence from the float32 state."""
    _, ids = long_text(checkpoint, tokens)
    streams = ids[: tokens // length * length].reshape(-1, length)
    losses: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in decoders}
    divergences: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in decoders}
    for stream in streams:
        states = {kind: decoder.new_state() for kind, decoder in decoders.items()}
        for start in range(0, length, PIECE):
            piece, following = stream[start : start + PIECE], stream[start + 1 : start + PIECE + 1]
            reference = np.zeros(0)
            for kind, decoder in decoders.items():
                log_p = log_softmax(decoder.forward(states[kind], piece, "all").astype(np.float64))
                reference = log_p if kind == "float32" else reference
                losses[kind].append(-log_p[np.arange(len(following)), following])
                divergences[kind].append(kl_divergence(reference, log_p))
    return {kind: compared(losses["float32"], losses[kind], divergences[kind]) for kind in decoders}


def compared(
    before: list[NDArray[np.float64]], after: list[NDArray[np.float64]], divergences: list[NDArray[np.float64]]
) -> Json:
    """Of one state against the float32 one."""
    losses, difference = np.concatenate(after), np.concatenate(after) - np.concatenate(before)
    kl = np.concatenate(divergences)
    return {
        "tokens": len(losses),
        "perplexity": float(np.exp(losses.mean())),
        "change": float(np.expm1(difference.mean())),
        "stderr": float(difference.std() / np.sqrt(len(difference))),
        "kl_mean": float(kl.mean()),
        "kl_p99": float(np.quantile(kl, 0.99)),
    }


def filled(decoder: Decoder, context: int) -> State:
    """A state at a position, with any keys and values before it."""
    state, rng = decoder.new_state(), np.random.default_rng(0)
    for layer in state.cache:
        rows = layer[..., :context, :]
        rows[...] = rng.integers(-100, 100, rows.shape) if rows.dtype == np.int8 else rng.standard_normal(rows.shape)
    state.position = context
    return state


def speed(decoders: dict[str, Decoder], context: int, rounds: int) -> Json:
    """Milliseconds of a step, medians over rounds, and the median of the rounds' ratios to float32."""
    states = {kind: filled(decoder, context) for kind, decoder in decoders.items()}
    times: dict[str, list[float]] = {kind: [] for kind in decoders}
    for _ in range(rounds):
        for kind, decoder in decoders.items():
            states[kind].truncate(context)
            steps = [seconds(decoder, states[kind], np.array([step])) for step in range(STEPS)]
            times[kind].append(1e3 * float(np.median(steps)))
    return ratios(times)


def prompts(decoders: dict[str, Decoder], length: int, rounds: int) -> Json:
    """Milliseconds of a whole prompt."""
    times: dict[str, list[float]] = {kind: [] for kind in decoders}
    for _ in range(max(1, rounds // 3)):
        for kind, decoder in decoders.items():
            ids = np.random.default_rng(0).integers(decoder.vocab_size, size=length)
            times[kind].append(1e3 * seconds(decoder, decoder.new_state(), ids))
    return ratios(times)


def seconds(decoder: Decoder, state: State, ids: NDArray[np.int64]) -> float:
    """Feed tokens and time it."""
    start = time.perf_counter()
    decoder.forward(state, ids)
    return time.perf_counter() - start


def ratios(times: dict[str, list[float]]) -> Json:
    """Medians, and how many times as fast as with a float32 state."""
    base = np.array(times["float32"])
    found: Json = {kind: {"ms": float(np.median(values))} for kind, values in times.items()}
    for kind in ROUNDED:
        found[kind] = {"ms": float(np.median(times[kind])), "times_as_fast": float(np.median(base / times[kind]))}
    return found


if __name__ == "__main__":
    main()
