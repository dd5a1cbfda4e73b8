"""Training an adapter in place of all weights: LoRA by PEFT, under the names of TRL's ModelConfig.

python -m train.sft --model_name_or_path smollm2-135m --datasets chats.jsonl --output_dir runs/legal --use_peft
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from doge_common.errors import OptionError
from doge_common.hub_id import is_on_hub
from doge_model import DogeForCausalLM
from doge_model.saving import is_llama

from .adapter_files import ADAPTER_CONFIG
from .arguments import ModelArguments

# Every projection of attention and of the gated MLP, which in a model with experts is the shared expert. The mask
# (dt_proj), the router and the experts' tables stay the base's: they choose keys and experts, and a Llama has none.
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ALL_LINEAR = "all-linear"  # PEFT's word for every linear map but the output matrix


@dataclass
class AdapterArguments(ModelArguments):
    """The checkpoint, and the adapter to train on it where `use_peft` asks for one."""

    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter; the base stays as it is."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "The update is scaled by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before the adapter."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": f"Modules to adapt, or all-linear; by default {', '.join(TARGETS)}."}
    )
    lora_modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train and save whole, such as lm_head."}
    )
    use_rslora: bool = field(default=False, metadata={"help": "Scale by lora_alpha / sqrt(lora_r)."})
    use_dora: bool = field(default=False, metadata={"help": "Train each row's magnitude apart from its direction."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lora_r", "lora_alpha"):
            if vars(self)[name] < 1:
                raise OptionError(f"{name} is {vars(self)[name]}; it must be at least 1")
        if not 0 <= self.lora_dropout < 1:
            raise OptionError(f"lora_dropout is {self.lora_dropout}; it must be at least 0 and below 1")


def adapter_config(arguments: AdapterArguments, model: DogeForCausalLM, keep_llama: bool) -> Any:
    """PEFT's configuration of the adapter that is asked for; None trains all weights.

    keep_llama: leave the mask of a lifted Llama out of the targets, as the adapter could not be loaded on the Llama.

    Raises:
        OptionError: PEFT is missing, the base is itself an adapter, or a target is no module of the model.
    """
    if not arguments.use_peft:
        return None
    if find_spec("peft") is None:
        raise OptionError("use_peft needs peft: pip install -c constraints.txt '.[adapters]' in the clone")
    from peft import LoraConfig  # noqa: PLC0415 - an extra's

    base = arguments.model_name_or_path
    if (Path(base) / ADAPTER_CONFIG).is_file():
        raise OptionError(
            f"model_name_or_path is {base}, which is an adapter; with use_peft it must be a whole model, so merge and "
            "save it first (docs/adapters.md)"
        )
    targets = arguments.lora_target_modules or TARGETS
    if targets != [ALL_LINEAR]:
        check_targets(targets, model)
    check_modules(arguments.lora_modules_to_save or [], model, "lora_modules_to_save")
    model.name_or_path = base if is_on_hub(base) or not Path(base).exists() else str(Path(base).resolve())
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path,
        revision=None if arguments.model_revision == "main" else arguments.model_revision,
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
        exclude_modules=["dt_proj"] if keep_llama and is_llama(model.config, model.state_dict()) else None,
        modules_to_save=arguments.lora_modules_to_save,
        use_rslora=arguments.use_rslora,
        use_dora=arguments.use_dora,
    )


def check_targets(targets: list[str], model: DogeForCausalLM) -> None:
    """Refuse targets of which PEFT would pass over some.

    Raises:
        OptionError: there is such a one, or all-linear beside others.
    """
    if ALL_LINEAR in targets:
        raise OptionError(f"lora_target_modules has {ALL_LINEAR} beside others; it must stand alone, or be left out")
    check_modules(targets, model, "lora_target_modules")


def check_modules(names: list[str], model: DogeForCausalLM, option: str) -> None:
    """Refuse a name that no module ends in; PEFT passes over one as long as another fits.

    Raises:
        OptionError: there is one.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if not any(module == name or module.endswith(f".{name}") for module in known):
            last = {module.rpartition(".")[2] for module in known}
            modules = ", ".join(sorted(each for each in last if not each.isdigit()))
            raise OptionError(
                f"{option} names {name!r}; it must be a module of the model, or the end of one: {modules}"
            )
