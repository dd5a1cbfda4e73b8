"""Loading a checkpoint: find it, recognise its form, check every tensor, and only then build the model.

    checkpoint = load_checkpoint("SmallDoge/Doge-20M-Instruct")   # hub id, folder, .gguf file, or smollm2-135m

Nothing is unpickled, and no code of a checkpoint is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from doge_common.errors import CheckpointError, OptionError, one_line
from doge_common.hub import download
from doge_common.hub_id import is_hub_id, is_on_hub

from .adapter_files import AdapterFiles, is_adapter_folder, read_adapter
from .adapters import base_of, check_base, merge
from .classification import DogeForSequenceClassification
from .configuration import DogeConfig
from .forms import doge_config, recognise, to_native, unknown_form
from .generation_settings import gguf_generation_config, load_generation_config
from .gguf import DEMO, GGUF_FILLS, GgufFile, demo_gguf_path, gguf_name
from .gguf_config import gguf_config
from .gguf_tokenizer import gguf_tokenizer
from .labels import give_labels, label_names
from .llama import FORM as LLAMA
from .llama import lift, llama_config
from .modeling import DogeForCausalLM
from .tensors import RenamedTensors, SafetensorsFolder, checked, read_json


@dataclass(frozen=True)
class Checkpoint:
    """A model with its tokenizer and settings.

    Attributes:
        model: the model, in eval mode.
        tokenizer: the tokenizer with its chat template; None if the checkpoint has none.
        generation_config: the checkpoint's, or one of the configuration's special tokens.
        source: the folder, file or id that was asked for.
        form: native, small-doge-2025-06, small-doge-2025-03 or llama.
    """

    model: DogeForCausalLM
    tokenizer: PreTrainedTokenizerFast | None
    generation_config: GenerationConfig
    source: str
    form: str


@dataclass(frozen=True)
class ClassifierCheckpoint:
    """A classifier or reward model with its tokenizer; the attributes are those of `Checkpoint`."""

    model: DogeForSequenceClassification
    tokenizer: PreTrainedTokenizerFast | None
    source: str
    form: str


AnyCheckpoint = Checkpoint | ClassifierCheckpoint
ModelT = TypeVar("ModelT", DogeForCausalLM, DogeForSequenceClassification)

# The types of transformers, and that of a Doge which transformers computes otherwise (saving.py).
MODEL_TYPES = ("doge", "llama", DogeConfig.model_type)

# End of a tensor's name -> the fields of config.json that give its shape.
DIMENSIONS = {
    ("embed_tokens.weight", "lm_head.weight"): "vocab_size, hidden_size",
    ("q_proj.weight",): "num_attention_heads * head_dim, hidden_size",
    ("k_proj.weight", "v_proj.weight"): "num_key_value_heads * head_dim, hidden_size",
    ("o_proj.weight",): "hidden_size, num_attention_heads * head_dim",
    ("dt_proj.weight",): "num_mask_heads, num_key_value_heads * head_dim",
    ("self_attn.A", "dt_proj.bias"): "num_mask_heads",
    ("q_norm.weight", "k_norm.weight"): "head_dim",
    ("q_proj.bias",): "num_attention_heads * head_dim",
    ("k_proj.bias", "v_proj.bias"): "num_key_value_heads * head_dim",
    ("gate_proj.weight", "up_proj.weight"): "intermediate_size, hidden_size",
    ("down_proj.weight",): "hidden_size, intermediate_size",
    ("gate_proj.bias", "up_proj.bias"): "intermediate_size",
    ("router_gate.weight",): "2 * sqrt(num_experts), hidden_size",
    ("router_gate.bias",): "2 * sqrt(num_experts)",
    ("score.weight",): "labels, hidden_size",
    ("down_embed.weight", "up_embed.weight"): "num_experts, hidden_size",
}

# Pattern of a tensor's name -> the field of config.json that says whether there is one.
SWITCHES = {
    r"lm_head\.weight": "tie_word_embeddings",
    r".*\.mlp\.(router_gate|down_embed|up_embed)\.weight": "is_moe",
    r".*\.mlp\.(gate|up|down)_proj\.bias": "mlp_bias",
    r".*\.self_attn\..*_proj\.bias": "attention_bias",
}


def load_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    adapter: str | Path | None = None,
) -> Checkpoint:
    """Load a Doge of any published form, or any Llama-architecture model lifted into one.

    A stored lm_head.weight that differs from the embedding, although the two are said to be tied, is refused.
    transformers 4 would use the embedding, transformers 5 the matrix; only the author knows the right one.

    Args:
        source: a folder with safetensors, a .gguf file, a hub id such as SmallDoge/Doge-20M, or smollm2-135m. An
            adapter's folder means its base with the adapter merged into it (`adapters`).
        revision: the branch, tag or commit of a hub repository.
        dtype: the dtype of the model's parameters.
        cache_dir: the cache of huggingface_hub; None is its own default.
        local_files_only: whether to take a hub repository from the cache without asking the hub.
        adapter: the folder or hub id of a PEFT adapter to merge into it.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not fit; the sentence names the tensor or the field.
        OptionError: dtype is not of floating point, or a revision is given for a local source.
    """
    if not dtype.is_floating_point:
        raise OptionError(f"dtype is {dtype}; it must be a floating-point type such as torch.float32 or torch.bfloat16")
    finder = Finder(None if cache_dir is None else Path(cache_dir), local_files_only)
    with quiet_transformers():
        if adapter is None:
            return load_found(finder.locate(source, revision), str(source), dtype, finder)
        files = read_adapter(finder.locate(adapter, None))
        check_base(files, str(source))
        base = load_found(finder.locate(source, revision), str(source), torch.float32, finder)
        return with_adapter(base, files, dtype)


@dataclass(frozen=True)
class Finder:
    """How files of the hub are found; see `load_checkpoint`."""

    cache_dir: Path | None
    local_files_only: bool
    adapters: frozenset[Path] = frozenset()  # those on whose base one is being loaded

    def locate(self, source: str | Path, revision: str | None) -> Path:
        """See `locate`."""
        return locate(source, revision, self.cache_dir, self.local_files_only)


def load_found(path: Path, source: str, dtype: torch.dtype, finder: Finder) -> Checkpoint:
    """Load a folder or a file; of an adapter its base, which may be an adapter too, with the adapter merged into it."""
    if not path.is_dir():
        return load_gguf(path, source, dtype)
    if not is_adapter_folder(path):
        return load_folder(path, source, dtype)
    if path.resolve() in finder.adapters:
        raise CheckpointError(
            f"{path} is an adapter whose base is itself; give its base: doge-export BASE --adapter DIR"
        )
    files = read_adapter(path)
    name = base_of(files)
    inner = replace(finder, adapters=finder.adapters | {path.resolve()})
    base = load_found(inner.locate(name, files.revision if is_on_hub(name) else None), source, torch.float32, inner)
    return with_adapter(base, files, dtype)


def with_adapter(base: Checkpoint, files: AdapterFiles, dtype: torch.dtype) -> Checkpoint:
    """The base with an adapter merged into it, and with the adapter's tokenizer where it has one."""
    model = merge(base.model, base.form, files).to(dtype)
    return replace(base, model=model, tokenizer=load_tokenizer(files.folder) or base.tokenizer)


def load_classifier(
    source: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> ClassifierCheckpoint:
    """Load a classifier or reward model, a folder or hub id of transformers' Doge or Llama; see `load_checkpoint`.

    Raises:
        CheckpointError: there is none, or it does not fit; its labels must be one for each row of score.weight.
        OptionError: a revision is given for a local source.
    """
    path = locate(source, revision, None, False)
    if not path.is_dir():
        raise CheckpointError(f"{source} is a .gguf file, which holds no classifier; give a folder or a hub id")
    with quiet_transformers():
        config, native, form, fields = read_folder(path)
        if "score.weight" not in native:
            raise CheckpointError(
                f"{source} is no classifier, as tensor score.weight is missing; train.classify gives it one"
            )
        shape = native.shape("score.weight")
        give_labels(config, label_names(fields, shape[0] if shape else 0), fields.get("problem_type"))
        model = assemble(config, native, dtype, DogeForSequenceClassification)
        return ClassifierCheckpoint(model, load_tokenizer(path), str(source), form)


def is_classifier(source: str | Path, revision: str | None = None) -> bool:
    """Whether a checkpoint says that it is a classifier: by `architectures` of its config.json.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    path = locate(source, revision, None, False)
    if not path.is_dir() or not (path / "config.json").is_file():
        return False
    architectures = read_json(path / "config.json").get("architectures")
    return isinstance(architectures, list) and any(
        str(name).endswith("ForSequenceClassification") for name in architectures
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' warnings, as their subjects are checked here, and refused where it matters."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(max(verbosity, transformers_logging.ERROR))
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def locate(source: str | Path, revision: str | None, cache_dir: Path | None, local_files_only: bool) -> Path:
    """The folder or .gguf file that a source means, downloaded where it is a hub id."""
    if source == DEMO and not revision:
        return demo_gguf_path()
    path = Path(source)
    is_gguf = path.suffix.lower() == ".gguf"
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise CheckpointError(f"{str(source)[:200]} cannot be read: {error.strerror}") from error
    if revision and (source == DEMO or is_folder or is_file):
        raise OptionError(f"revision is {revision!r}; it must be left out, as {source} is no repository of the hub")
    if source and (is_folder or (is_file and is_gguf)):
        return path
    if is_file:
        raise CheckpointError(f"{source} is a file, but not a .gguf; give a folder, a .gguf file or a hub id")
    if isinstance(source, str) and not is_gguf and is_hub_id(source):
        return download(source, revision, cache_dir, local_files_only)
    raise CheckpointError(f"there is no {source}; give a folder, a .gguf file, a hub id (owner/name) or {DEMO}")


def load_folder(folder: Path, source: str, dtype: torch.dtype) -> Checkpoint:
    """Load a folder with config.json and safetensors."""
    config, native, form, _ = read_folder(folder)
    if "score.weight" in native and "lm_head.weight" not in native:
        raise CheckpointError(f"{source} is a classifier, as it has tensor score.weight; load_classifier reads it")
    model = assemble(config, native, dtype, DogeForCausalLM)
    model.generation_config = load_generation_config(folder, config)
    return Checkpoint(model, load_tokenizer(folder), model.generation_config, source, form)


def read_folder(folder: Path) -> tuple[DogeConfig, RenamedTensors, str, dict[str, Any]]:
    """A folder's configuration, its tensors under native names, its form, and the fields of its config.json."""
    ggufs = sorted(folder.glob("*.gguf"))
    if ggufs and not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} has no config.json; give the file itself: {ggufs[0]}")
    fields = read_json(folder / "config.json")
    model_type = fields.get("model_type")
    if model_type not in MODEL_TYPES:
        allowed = " or ".join(repr(known) for known in MODEL_TYPES)
        raise CheckpointError(f"{folder / 'config.json'}: model_type is {model_type!r}; it must be {allowed}")
    tensors = SafetensorsFolder(folder)
    if model_type == LLAMA:
        native = lift(tensors)
        return llama_config(fields, native), native, LLAMA, fields
    form = recognise(tensors)
    native = to_native(tensors, form)
    return doge_config(fields, native), native, form, fields


def load_gguf(path: Path, source: str, dtype: torch.dtype) -> Checkpoint:
    """Load a Llama-architecture GGUF file."""
    file = GgufFile(path)
    native = lift(file, GGUF_FILLS, gguf_name)
    model = assemble(llama_config(gguf_config(file), native), native, dtype, DogeForCausalLM)
    model.generation_config = gguf_generation_config(file)
    return Checkpoint(model, gguf_tokenizer(file), model.generation_config, source, LLAMA)


def assemble(config: DogeConfig, tensors: RenamedTensors, dtype: torch.dtype, kind: type[ModelT]) -> ModelT:
    """Build a model of this kind from checked tensors, which are read one after the other.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape, or not finite.
    """
    if config.tie_word_embeddings:
        tensors = tensors.with_embedding()
    check_sizes(tensors, config)
    with torch.device("meta"):
        model = kind(config)
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


def check_sizes(tensors: RenamedTensors, config: DogeConfig) -> None:
    """Refuse tensors of other sizes than the configuration's, before a model of those sizes is built."""
    numbers = {int(match[1]) for name in tensors if (match := re.match(r"model\.layers\.([0-9]{1,6})\.", name))}
    if not numbers:
        raise CheckpointError(unknown_form(tensors))
    if max(numbers) + 1 != config.num_hidden_layers:
        raise CheckpointError(
            f"config field num_hidden_layers is {config.num_hidden_layers}; it must be {max(numbers) + 1}, "
            "the layers of the tensors"
        )
    hidden, head_dim = config.hidden_size, config.head_dim or 0
    check_tensor("model.embed_tokens.weight", (config.vocab_size, hidden), tensors, config)
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        check_tensor(name, (config.num_attention_heads * head_dim, hidden), tensors, config)


def check_tensor(
    name: str, shape: tuple[int, ...], tensors: RenamedTensors, config: DogeConfig, instead: str = ""
) -> None:
    """Refuse a tensor that is missing or of another shape."""
    if name not in tensors:
        if tensors.fill(name) is None:
            missing, switched = tensors.original(name), switch(name, config)
            raise CheckpointError(f"tensor {missing} is missing; give it with shape {list(shape)}{switched}{instead}")
    elif tensors.shape(name) != shape:
        found, original = list(tensors.shape(name)), tensors.original(name)
        raise CheckpointError(
            f"tensor {original} has shape {found}; it must be {list(shape)} ({dimensions(name)} of the configuration)"
        )


def check_names_and_shapes(expected: dict[str, tuple[int, ...]], tensors: RenamedTensors, config: DogeConfig) -> None:
    """Refuse the first tensor that is missing, unexpected, or of another shape than the configuration's."""
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    unexpected = [name for name in tensors if name not in expected and name not in tied]
    instead = f"; {tensors.original(unexpected[0])} is there, but fits no published form" if unexpected else ""
    for name, shape in expected.items():
        check_tensor(name, shape, tensors, config, instead)
    if unexpected:
        raise CheckpointError(
            f"tensor {tensors.original(unexpected[0])} is unexpected: no published form with this configuration has it"
            f"{switch(unexpected[0], config)}"
        )


def dimensions(name: str) -> str:
    """The fields of config.json that give the shape of a tensor."""
    return next((fields for endings, fields in DIMENSIONS.items() if name.endswith(endings)), "hidden_size")


def switch(name: str, config: DogeConfig) -> str:
    """The field that says whether there is such a tensor, as a remark for a message; empty if no field says so."""
    field = next((field for pattern, field in SWITCHES.items() if re.fullmatch(pattern, name)), None)
    return f" (config field {field} is {vars(config)[field]})" if field else ""


def check_tied(tensors: RenamedTensors, embedding: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse a stored output matrix that differs from the embedding although the two are said to be tied."""
    stored = checked(tensors.original("lm_head.weight"), tensors.load("lm_head.weight"), dtype)
    if stored.shape != embedding.shape or not torch.equal(stored, embedding):
        raise CheckpointError(
            "tensor lm_head.weight differs from the embedding although config.json has tie_word_embeddings true; "
            "set that to false, or remove the tensor if it does not count"
        )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of tokenizer.json with its settings and chat template; None if there is no tokenizer.

    PreTrainedTokenizerFast reads it, whichever class it names, as that class runs no code of the checkpoint.

    Raises:
        CheckpointError: the files are damaged, or of a kind that only code of their own can read.
    """
    if not (folder / "tokenizer.json").is_file():
        others = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if (folder / name).is_file()]
        if others:
            raise CheckpointError(
                f"{folder} has {others[0]} but no tokenizer.json; write one with transformers: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        return None
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a malformed file
        reason = one_line(error)
        raise CheckpointError(f"{folder / 'tokenizer.json'} is not a tokenizer: {reason}") from error
