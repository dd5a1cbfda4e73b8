"""Which model has the demo's function, and no weight on the 4-bit grid that its GGUF file had?

    python -m benchmarks.quality.rotated_demo rotated --gguf

This makes a model for benchmarks.quality.int4. Every norm's gain is folded into the matrices behind it. The final
norm's goes into an output matrix of its own, which is then no longer tied. Then the residual stream is multiplied by
one random orthogonal matrix R. A matrix that writes to it becomes R^T W, one that reads from it W R. With --gguf the
same model is written for llama.cpp, in float32.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray
from torch import Tensor

from doge_model import Checkpoint, DogeForCausalLM, load_checkpoint
from doge_model.gguf import DEMO, demo_gguf_path, gguf_name

READERS = (  # norm of a layer -> readers of its output
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
)
WRITERS = ("self_attn.o_proj", "mlp.down_proj")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Of the rotation.")
@click.option("--gguf", is_flag=True, help="Write rotated.gguf into the folder too, in float32, for llama.cpp.")
def main(folder: Path, seed: int, gguf: bool) -> None:
    """Write the rotated demo as a checkpoint to FOLDER."""
    checkpoint = rotated_demo(seed)
    checkpoint.model.save_pretrained(folder)
    checkpoint.generation_config.save_pretrained(folder)
    assert checkpoint.tokenizer is not None
    checkpoint.tokenizer.save_pretrained(folder)
    if gguf:
        write_gguf(checkpoint.model, folder / "rotated.gguf")


def rotated_demo(seed: int = 0) -> Checkpoint:
    """The demo model with its gains folded and its residual stream rotated."""
    checkpoint = load_checkpoint(DEMO)
    model = checkpoint.model
    untie(model)
    with torch.inference_mode():
        rotation = random_rotation(model.config.hidden_size, seed)
        fold_gains(model)
        rotate(model, rotation)
    return checkpoint


def random_rotation(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix, float64 [size, size]."""
    generator = torch.Generator().manual_seed(seed)
    rotation: Tensor = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
    return rotation


def untie(model: DogeForCausalLM) -> None:
    """Give the output an own copy of the embedding matrix."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.detach().clone())


def fold_gains(model: DogeForCausalLM) -> None:
    """Multiply the columns of every matrix behind a norm by the norm's gain, which becomes 1."""
    pairs = [(model.model.norm.weight, [model.lm_head.weight])]
    for layer in model.model.layers:
        pairs += [
            (layer.get_parameter(f"{norm}.weight"), [layer.get_parameter(f"{reader}.weight") for reader in readers])
            for norm, readers in READERS
        ]
    for gain, matrices in pairs:
        for matrix in matrices:
            matrix.data = (matrix.double() * gain.double()).float()
        gain.data.fill_(1.0)


def rotate(model: DogeForCausalLM, rotation: Tensor) -> None:
    """Multiply the residual stream by a rotation, float64 [hidden, hidden], in place."""
    readers = [model.model.embed_tokens.weight, model.lm_head.weight]
    writers = []
    for layer in model.model.layers:
        readers += [layer.get_parameter(f"{name}.weight") for _, names in READERS for name in names]
        writers += [layer.get_parameter(f"{name}.weight") for name in WRITERS]
    for matrix in readers:
        matrix.data = (matrix.double() @ rotation).float()
    for matrix in writers:
        matrix.data = (rotation.T @ matrix.double()).float()


def write_gguf(model: DogeForCausalLM, path: Path) -> None:
    """The rotated model for llama.cpp, float32, with the metadata of the demo's own file."""
    reader = GGUFReader(demo_gguf_path())
    writer = GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    names = {tensor.name for tensor in reader.tensors} | {"output.weight"}
    for name, parameter in model.named_parameters():
        if gguf_name(name) not in names:  # a Llama does not have it
            continue
        values = parameter.detach().float().numpy()
        count = heads.get(name.split(".")[-2])
        writer.add_tensor(gguf_name(name), values if count is None else permute(values, count))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp's order of query and key rows, the inverse of `doge_model.gguf.unpermute`: [heads * D, in]."""
    halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


if __name__ == "__main__":
    main()
