"""Loading a checkpoint: find it, tell what it is, check every tensor, and only then build the model.

    checkpoint = load_checkpoint("SmallDoge/Doge-20M-Instruct")   # hub id, folder, .gguf file, or smollm2-135m

Nothing is unpickled and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from .configuration import DogeConfig
from .errors import CheckpointError
from .forms import doge_config, recognise, to_native
from .gguf import DEMO, GgufFile, demo_gguf_path, gguf_config, gguf_generation_config, gguf_tokenizer
from .hub import download, is_hub_id
from .llama import FORM as LLAMA
from .llama import lift, llama_config
from .modeling import DogeForCausalLM
from .tensors import RenamedTensors, SafetensorsFolder, checked, read_json


@dataclass(frozen=True)
class Checkpoint:
    """A model with what it needs to talk.

    Attributes:
        model: in eval mode.
        tokenizer: with its chat template; None if the checkpoint has none.
        generation_config: the checkpoint's, or one made of the configuration's special tokens.
        source: what was asked for.
        form: native, small-doge-2025-06, small-doge-2025-03 or llama.
    """

    model: DogeForCausalLM
    tokenizer: PreTrainedTokenizerFast | None
    generation_config: GenerationConfig
    source: str
    form: str


def load_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    cache_dir: Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Load a Doge of any published form, or any Llama-architecture model lifted into one.

    Args:
        source: a folder with safetensors, a .gguf file, a hub id such as SmallDoge/Doge-20M, or smollm2-135m.
        revision: branch, tag or commit of a hub repository.
        dtype: of the model's parameters.
        cache_dir: of huggingface_hub; None is its own default.
        local_files_only: take a hub repository from the cache without asking the hub.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not fit; the sentence names the tensor or the field.
    """
    path = locate(source, revision, cache_dir, local_files_only)
    if path.is_dir():
        return load_folder(path, str(source), dtype)
    return load_gguf(path, str(source), dtype)


def locate(source: str | Path, revision: str | None, cache_dir: Path | None, local_files_only: bool) -> Path:
    """The folder or .gguf file that a source means, downloaded where it is a hub id."""
    path = Path(source)
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if source == DEMO:
        return demo_gguf_path()
    if path.is_file():
        raise CheckpointError(f"{source} is a file, but not a .gguf; give a checkpoint folder, a .gguf file or a hub id")
    if path.suffix != ".gguf" and is_hub_id(str(source)):
        return download(str(source), revision, cache_dir, local_files_only)
    raise CheckpointError(f"there is no {source}; give a checkpoint folder, a .gguf file, a hub id (owner/name) or {DEMO}")


def load_folder(folder: Path, source: str, dtype: torch.dtype) -> Checkpoint:
    """Load a folder with config.json and safetensors."""
    fields = read_json(folder / "config.json")
    model_type, tensors = fields.get("model_type"), SafetensorsFolder(folder)
    if model_type == "doge":
        form = recognise(tensors)
        native = to_native(tensors, form)
        config = doge_config(fields, native)
    elif model_type == "llama":
        form, native, config = LLAMA, lift(tensors), llama_config(fields)
    else:
        raise CheckpointError(f"{folder / 'config.json'}: model_type is {model_type!r}; expected 'doge' or 'llama'")
    model = assemble(config, native, dtype)
    model.generation_config = load_generation_config(folder, config)
    return Checkpoint(model, load_tokenizer(folder), model.generation_config, source, form)


def load_gguf(path: Path, source: str, dtype: torch.dtype) -> Checkpoint:
    """Load a Llama-architecture GGUF file."""
    file = GgufFile(path)
    model = assemble(llama_config(gguf_config(file)), lift(file), dtype)
    model.generation_config = gguf_generation_config(file)
    return Checkpoint(model, gguf_tokenizer(file), model.generation_config, source, LLAMA)


def assemble(config: DogeConfig, tensors: RenamedTensors, dtype: torch.dtype) -> DogeForCausalLM:
    """Build the model from checked tensors, each read once.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape, or holds no finite numbers.
    """
    with torch.device("meta"):
        model = DogeForCausalLM(config)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    check_names_and_shapes(expected, tensors, config)
    parameters = {}
    for name, shape in expected.items():
        if name in tensors:
            parameters[name] = checked(tensors.original(name), tensors.load(name), dtype)
        else:
            parameters[name] = torch.full(shape, tensors.fill(name) or 0.0, dtype=dtype)
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        check_tied(tensors, parameters["model.embed_tokens.weight"], dtype)
    model.load_state_dict(parameters, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def check_names_and_shapes(expected: dict[str, tuple[int, ...]], tensors: RenamedTensors, config: DogeConfig) -> None:
    """Refuse the first tensor that is missing, unexpected or of another shape than the configuration says."""
    for name, shape in expected.items():
        if name not in tensors:
            if tensors.fill(name) is None:
                hint = " (config.json says that embeddings are not tied)" if name == "lm_head.weight" else ""
                raise CheckpointError(f"tensor {name} is missing; expected shape {list(shape)}{hint}")
        elif tensors.shape(name) != shape:
            found, original = list(tensors.shape(name)), tensors.original(name)
            raise CheckpointError(f"tensor {original} has shape {found}; config.json asks for {list(shape)}")
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name in tensors:
        if name not in expected and name not in tied:
            raise CheckpointError(
                f"tensor {tensors.original(name)} is unexpected: no published form of Doge with this config.json has it"
            )


def check_tied(tensors: RenamedTensors, embedding: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse a stored output matrix that differs from the embedding it is said to be tied to."""
    stored = checked("lm_head.weight", tensors.load("lm_head.weight"), dtype)
    if stored.shape != embedding.shape or not torch.equal(stored, embedding):
        raise CheckpointError(
            "tensor lm_head.weight differs from the embedding although config.json has tie_word_embeddings true; "
            "set it to false if the matrix counts, or remove the tensor if it does not"
        )


def load_generation_config(folder: Path, config: DogeConfig) -> GenerationConfig:
    """generation_config.json, or the configuration's special tokens."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return GenerationConfig.from_model_config(config)
    return GenerationConfig.from_dict(read_json(path))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast | None:
    """tokenizer.json with its settings and chat template, by the class that runs no code of the checkpoint's."""
    if not (folder / "tokenizer.json").is_file():
        return None
    read_json(folder / "tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception for a malformed file
        raise CheckpointError(f"{folder / 'tokenizer.json'} is not a tokenizer: {' '.join(str(error).split())}") from error
