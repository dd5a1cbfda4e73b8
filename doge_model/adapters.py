"""Adapters of PEFT merged into their base in float32, by PEFT's own merge, and compared with its own forward.

    checkpoint = load_checkpoint("runs/legal")                       # an adapter folder: its base is found by its name
    checkpoint = load_checkpoint("smollm2-135m", adapter="runs/legal")

PEFT knows every kind of adapter that it writes, so it makes the module around the base and merges it. Here lies all
that it leaves to its caller, or does in silence. Each tensor must have its place. A tied output matrix is untied first,
as a merge into the embedding would change it too. It stays apart where the two then differ.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from doge_common.errors import CheckpointError, OptionError, one_line
from doge_common.hub_id import is_hub_id

from .adapter_files import ADAPTER_CONFIG, AdapterFiles
from .forms import MARCH_2025, MARCH_2025_NAMES
from .gguf import DEMO
from .llama import FILLS
from .llama import FORM as LLAMA
from .modeling import DogeForCausalLM

UNUSED_FIELDS = {"runtime_config"}  # which PEFT itself drops, as it is no part of an adapter
PREFIX = "base_model.model."  # PEFT's, before the names of the base
EMBEDDING, OUTPUT = "model.embed_tokens", "lm_head"
BASE_ENDINGS = (
    "base_layer.weight",
    "token_adapter.base_layer.weight",
    "original_module.weight",
)  # of the base's own numbers inside of PEFT's modules
LIMIT = 1e-4  # of the largest logit, between PEFT's forward and that of the merged model
PROBE_TOKENS = 32
# PEFT's warnings of tied embeddings, which are untied here; all others are shown
TIES = r"(Model (with|has) `tie_word_embeddings=True`|You have requested `ensure_weight_tying`)"
# that PEFT raises for configurations and shapes it cannot use
REFUSALS = (ValueError, TypeError, KeyError, IndexError, RuntimeError, AttributeError, ImportError, re.error)


def check_base(adapter: AdapterFiles, base: str) -> None:
    """Refuse an adapter that says it was trained on another base than the given one, where that can be told.

    A name of the hub and a local folder may hold the same model, so they are not compared.

    Raises:
        CheckpointError: both are on the hub, or both are here, and they differ.
    """
    trained = adapter.base
    here = [Path(name).exists() for name in (trained, base)]
    both_on_hub = not any(here) and is_hub_id(trained) and is_hub_id(base) and trained.lower() != base.lower()
    both_here = all(here) and trained and not Path(trained).samefile(base)
    if both_on_hub or both_here:
        raise CheckpointError(f"the adapter {adapter.folder} was trained on {trained}, not on {base}; give that base")


def base_of(adapter: AdapterFiles) -> str:
    """The base that an adapter names, as it must be here or on the hub.

    Raises:
        CheckpointError: it names none, or a path that does not exist.
    """
    base = adapter.base
    if not base:
        raise CheckpointError(f"the adapter {adapter.folder} names no base; give it: doge-export BASE --adapter DIR")
    looks_local = base.startswith(("/", ".", "~")) or not is_hub_id(base)
    if looks_local and base != DEMO and not Path(base).exists():
        raise CheckpointError(
            f"the adapter {adapter.folder} was trained on {base}, which is not here; "
            "give its base: doge-export BASE --adapter DIR"
        )
    return base


def merge(model: DogeForCausalLM, form: str, adapter: AdapterFiles) -> DogeForCausalLM:
    """A model in float32 with an adapter merged into it, in place. form: of its checkpoint.

    Raises:
        CheckpointError: the adapter does not fit, or cannot be merged exactly.
        OptionError: PEFT is missing.
    """
    tensors = native_names(adapter.tensors) if form == MARCH_2025 else dict(adapter.tensors)
    was_tied = untie(model)
    if was_tied:
        drop_tied_tokens(tensors, adapter)
    take_base_tables(model, tensors, adapter)
    merged = merged_model(wrap(model, adapter, tensors, form), adapter.folder)
    tie_again(merged, was_tied)
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    return merged.eval()


def native_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an adapter for small-doge of spring 2025, under native names."""
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, ours in MARCH_2025_NAMES.items():
            name = name.replace(theirs, ours)  # noqa: PLW2901 - one name after the other
        renamed[name] = tensor
    return renamed


def untie(model: DogeForCausalLM) -> bool:
    """Give a tied output matrix numbers of its own; whether it was tied."""
    if not model.config.tie_word_embeddings:
        return False
    model.lm_head.weight = nn.Parameter(model.model.embed_tokens.weight.detach().clone())
    return True


def tie_again(model: DogeForCausalLM, was_tied: bool) -> None:
    """Tie the output matrix to the embedding where they are equal; else they stay two, and config.json says so."""
    if was_tied:  # PEFT has set the field to False, whatever it merged
        model.config.tie_word_embeddings = torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight


def take_base_tables(model: DogeForCausalLM, tensors: dict[str, Tensor], adapter: AdapterFiles) -> None:
    """Take the base's own embedding and output matrix out of an adapter's tensors, which PEFT saves where they grew.

    Raises:
        CheckpointError: they have other columns than the base, or fewer rows, or one of them is missing.
    """
    rows, columns = model.model.embed_tokens.weight.shape
    found = base_tables(tensors)
    for key in found.values():
        shape = tuple(tensors[key].shape)
        if len(shape) != 2 or shape[1] != columns or shape[0] < rows:
            raise CheckpointError(
                f"the adapter {adapter.folder} has {key} of shape {list(shape)}, but the base's is {[rows, columns]}; "
                "it must be of this base, whose vocabulary may only have grown"
            )
    grown = {tensors[key].shape[0] for key in found.values()} - {rows}
    if len(grown) > 1 or (grown and EMBEDDING not in found):
        raise CheckpointError(
            f"the adapter {adapter.folder} has a vocabulary that grew, but not the whole embedding of it; "
            "save it with save_embedding_layers=True"
        )
    if grown:
        grow(model, grown.pop())
    check_token_indices(adapter, model.config.vocab_size)
    for name, key in found.items():
        model.get_parameter(f"{name}.weight").data.copy_(tensors[key])
        if key.endswith(BASE_ENDINGS):
            del tensors[key]
    if grown_output_follows(model, found, rows, adapter):
        model.lm_head.weight.data.copy_(model.model.embed_tokens.weight.data)


def check_token_indices(adapter: AdapterFiles, rows: int) -> None:
    """Refuse rows of tables that are trained and not there.

    Raises:
        CheckpointError: there are such rows.
    """
    given = adapter.fields.get("trainable_token_indices") or adapter.fields.get("token_indices") or []
    lists = given.values() if isinstance(given, dict) else [given]
    indices = [index for each in lists if isinstance(each, list) for index in each if isinstance(index, int)]
    if max(indices, default=0) >= rows:
        raise CheckpointError(
            f"the adapter {adapter.folder} trains token {max(indices)}, but the base has {rows} tokens; if its "
            "vocabulary grew, save the adapter with save_embedding_layers=True"
        )


def drop_tied_tokens(tensors: dict[str, Tensor], adapter: AdapterFiles) -> None:
    """Take out the head's copy of trained tokens, which PEFT saves beside a tied table that grew, and ties at load."""
    asked = adapter.fields.get("trainable_token_indices")
    of_embedding, of_head = (f"{PREFIX}{name}.token_adapter.trainable_tokens_delta" for name in (EMBEDDING, OUTPUT))
    if isinstance(asked, dict) and OUTPUT in asked:
        return
    if {of_head, of_embedding} <= tensors.keys() and torch.equal(tensors[of_head], tensors[of_embedding]):
        del tensors[of_head]


def base_tables(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Of embedding and output matrix, as far as an adapter's file has them, the names there."""
    found = {}
    for name in (EMBEDDING, OUTPUT):
        for ending in ("weight", *BASE_ENDINGS):
            if f"{PREFIX}{name}.{ending}" in tensors:
                found[name] = f"{PREFIX}{name}.{ending}"
        tensors.pop(f"{PREFIX}{name}.modules_to_save.weight", None)  # stands there by its own name too
    return found


def grown_output_follows(model: DogeForCausalLM, found: dict[str, str], rows: int, adapter: AdapterFiles) -> bool:
    """Whether an output matrix has grown as its embedding has, of which alone the new rows were saved.

    Raises:
        CheckpointError: it has grown otherwise, and its new rows were not saved.
    """
    if model.config.vocab_size == rows or OUTPUT in found:
        return False
    apart = "embed_tokens" in (adapter.fields.get("modules_to_save") or [])
    if not model.config.tie_word_embeddings or (apart and not adapter.fields.get("ensure_weight_tying")):
        raise CheckpointError(
            f"the adapter {adapter.folder} has a vocabulary that grew, but not the new rows of its output matrix; "
            "save it with save_embedding_layers=True"
        )
    return True


def grow(model: DogeForCausalLM, rows: int) -> None:
    """Give embedding and output matrix more rows, zeros until they are filled."""
    for name in (EMBEDDING, OUTPUT):
        table = model.get_submodule(name)
        wide = torch.zeros(rows, table.weight.shape[1])
        wide[: len(table.weight)] = table.weight.data
        table.weight = nn.Parameter(wide)
    model.model.embed_tokens.num_embeddings = model.lm_head.out_features = rows
    model.config.vocab_size = model.vocab_size = rows


def wrap(model: DogeForCausalLM, adapter: AdapterFiles, tensors: dict[str, Tensor], form: str) -> Any:
    """PEFT's module around the base, with the adapter's numbers in it.

    Raises:
        CheckpointError: a tensor has no place, is missing or of another shape, or PEFT refuses.
        OptionError: PEFT is missing.
    """
    if find_spec("peft") is None:
        raise OptionError("an adapter needs peft: pip install -c constraints.txt '.[adapters]' in the clone")
    import peft  # noqa: PLC0415 - an extra's

    check_fields(adapter, peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(adapter.fields["peft_type"])])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=TIES)
            config = peft.PeftConfig.from_pretrained(str(adapter.folder))
            config.inference_mode = True
            if form == LLAMA and isinstance(config.target_modules, str):
                config.exclude_modules = config.exclude_modules or ["dt_proj"]  # a Llama has none
            wrapped = peft.PeftModelForCausalLM(model, config, autocast_adapter_dtype=False).eval()
            check_tensors(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False), tensors, adapter.folder)
            peft.set_peft_model_state_dict(wrapped, tensors)
    except CheckpointError:
        raise
    except REFUSALS as error:
        raise CheckpointError(f"the adapter {adapter.folder} does not fit the base: {one_line(error)}") from error
    return wrapped


def check_fields(adapter: AdapterFiles, known: type[Any]) -> None:
    """Refuse fields that are set and that PEFT's configuration has not; PEFT passes over them.

    Raises:
        CheckpointError: there is one.
    """
    names = {field.name for field in dataclasses.fields(known)} | UNUSED_FIELDS
    for name, value in adapter.fields.items():
        if name not in names and value not in (None, False, "", [], {}):
            raise CheckpointError(
                f"the adapter {adapter.folder} has {name} in {ADAPTER_CONFIG}, which this version of PEFT does not "
                "know; update PEFT, or take it out if it changes nothing"
            )


def check_tensors(expected: dict[str, Tensor], found: dict[str, Tensor], folder: Path) -> None:
    """Refuse tensors without a place, and places without a tensor; PEFT passes over both.

    Raises:
        CheckpointError: there is one, or one of another shape.
    """
    tables = {f"{PREFIX}{name}.weight" for name in (EMBEDDING, OUTPUT)}
    for name, tensor in found.items():
        if name not in expected and name not in tables:
            raise CheckpointError(f"the adapter {folder} has {name}, which fits no module of this base")
        if name in expected and tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"the adapter {folder} has {name} of shape {list(tensor.shape)}; "
                f"on this base it must be {list(expected[name].shape)}"
            )
    endings = tuple(FILLS)
    missing = [name for name in expected if name not in found and not name.endswith(endings)]
    if missing:
        raise CheckpointError(f"the adapter {folder} lacks {missing[0]}, which its configuration asks for on this base")


@torch.no_grad()
def merged_model(wrapped: Any, folder: Path) -> DogeForCausalLM:
    """Merge, and compare with PEFT's own forward.

    Raises:
        CheckpointError: PEFT cannot merge it, or its merge computes something else.
    """
    config = wrapped.config
    length = min(PROBE_TOKENS, config.keep_window_size)
    ids = torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    before = wrapped(input_ids=ids).logits
    try:
        merged: DogeForCausalLM = wrapped.merge_and_unload(safe_merge=True)
    except REFUSALS as error:
        raise CheckpointError(f"the adapter {folder} cannot be merged: {one_line(error)}") from error
    difference = float((merged(input_ids=ids).logits - before).abs().max() / before.abs().max())
    if not difference <= LIMIT:
        raise CheckpointError(
            f"the adapter {folder} cannot be merged exactly: the merged model's logits differ by {difference:.1e} of "
            f"the largest, and {LIMIT:g} is allowed"
        )
    return merged
