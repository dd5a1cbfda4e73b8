"""README.md of a trained checkpoint: base, data, recipe and figures, as the run itself knows them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from huggingface_hub import ModelCardData
from transformers import TrainerState

from doge_common.hub_id import is_on_hub
from doge_model import DogeForCausalLM
from doge_model.classification import AnyDoge
from doge_model.licence import licence_of
from doge_model.saving import llama_lacks
from doge_model.tensors import read_json

from .adapter_files import ADAPTER_CONFIG
from .data import Source
from .paths import is_data_file

CARD_FILE = "README.md"
MADE_WITH = ("torch", "transformers", "trl")
SECRET = "token"  # the end of the names of options that hold one
FIGURES = {  # names of the log -> words of the card; of each the last value
    "loss": "loss of the last logged steps",
    "train_loss": "loss, mean over the steps of this run",
    "eval_loss": "loss on held-out records",
    "eval_accuracy": "accuracy on held-out records",
    "eval_accuracy_error": "its standard error",
    "eval_f1": "macro F1 on held-out records",
    "eval_rmse": "root mean square error on held-out records",
    "rewards/accuracies": "share of pairs whose chosen answer is preferred, last logged steps",
    "eval_rewards/accuracies": "share of pairs whose chosen answer is preferred, held out",
    "reward": "mean reward of a completion, last logged steps",
    "eval_reward": "mean reward of a completion, held out",
    "aux_loss": "load-balancing loss",
    "experts_used": "share of experts in use, worst layer",
    "num_tokens": "tokens seen",
    "train_runtime": "seconds of this run",
}


@dataclass(frozen=True)
class Recipe:
    """A stage and the options that it was given.

    Attributes:
        stage: the name of its command.
        options: by name, as values that YAML writes; without defaults, and without secrets.
    """

    stage: str
    options: dict[str, Any]


def recipe_of(stage: str, given: Iterable[str], parsed: Iterable[Any]) -> Recipe:
    """The recipe of a run, from the names that were given and the arguments that were made of them."""
    values = {name: value for arguments in parsed for name, value in vars(arguments).items()}
    named = [name for name in given if name in values and not name.endswith(SECRET)]
    return Recipe(stage, {name: plain(values[name]) for name in named})


def plain(value: Any) -> Any:
    """A value of an option as one that YAML writes."""
    if isinstance(value, Source):
        defaults = {each.name: each.default for each in fields(value) if each.default is not MISSING}
        return {name: item for name, item in vars(value).items() if name not in defaults or item != defaults[name]}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value.value if isinstance(value, Enum) else value


def write_model_card(folder: Path, recipe: Recipe, model: AnyDoge, state: TrainerState | None = None) -> None:
    """Write the card of a checkpoint into its folder, where the model has been saved.

    Args:
        folder: of the checkpoint.
        recipe: of the run.
        model: the model; its parameters are counted.
        state: of the trainer, whose log has the figures.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    adapter = read_json(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).is_file() else None
    model_type, options = "" if adapter else read_json(folder / "config.json")["model_type"], recipe.options
    named = {name: parameter for name, parameter in model.named_parameters() if not adapter or parameter.requires_grad}
    labels = [] if adapter or isinstance(model, DogeForCausalLM) else list(model.config.label2id)
    left_out = set(llama_lacks(named)) if model_type == "llama" else set()
    count = sum(named[name].numel() for name in named if name not in left_out)
    text = environment.get_template("model_card.md.jinja").render(
        front_matter=front_matter(recipe, adapter is not None, labels).to_yaml(),
        labels=labels,
        name=f"{folder.parent.name}, {folder.name}" if folder.name.startswith("checkpoint-") else folder.name,
        stage=recipe.stage,
        literal=json.dumps(str(folder), ensure_ascii=False),
        argument=shlex.quote(str(folder)),
        kind="LoRA adapter" if adapter else "Llama" if model_type == "llama" else "Doge",
        adapter=adapter,
        model_type=model_type,
        parameters=f"{count:,}" if adapter else f"{count / 1e6:.1f} million",
        base=options.get("model_name_or_path"),
        base_literal=json.dumps(adapter["base_model_name_or_path"] if adapter else "", ensure_ascii=False),
        sources=[Source(**source) for source in options.get("datasets", [])],
        recipe=yaml.safe_dump(options, sort_keys=False, allow_unicode=True),
        figures={} if state is None else figures(state),
        versions=", ".join(f"{name} {version(name)}" for name in (*MADE_WITH, *(["peft"] if adapter else []))),
        device=device_name(model.device),
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def front_matter(recipe: Recipe, is_adapter: bool, labels: list[str]) -> ModelCardData:
    """The fields that the hub reads, as far as they are known."""
    base, sources = recipe.options.get("model_name_or_path"), recipe.options.get("datasets", [])
    paths = [source["path"] for source in sources]
    return ModelCardData(
        base_model=base if base and is_on_hub(base) else None,
        datasets=[path for path in paths if not is_data_file(path) and is_on_hub(path)] or None,
        **(licence_of(base, recipe.options.get("model_revision")) if base else {}),
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-classification" if labels else "text-generation",
        tags=["doge", recipe.stage, *(["lora"] if is_adapter else [])],
    )


def figures(state: TrainerState) -> dict[str, str]:
    """The figures of a run by the words of the card: steps, epochs and the last value of each of FIGURES."""
    last = {name: value for entry in state.log_history for name, value in entry.items()}
    found = {"steps": f"{state.global_step:,}", "epochs": f"{state.epoch or 0:.2f}"}
    return found | {words: f"{last[name]:,.6g}" for name, words in FIGURES.items() if last.get(name) is not None}


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the number of threads of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} thread(s) of a CPU" if device.type == "cpu" else device.type
