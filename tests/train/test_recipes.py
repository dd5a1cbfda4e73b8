"""Every recipe has the numbers of the model card, and its stage can read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate.commands.config.config_args as accelerate_configs
import pytest
import torch
import yaml
from transformers import get_scheduler
from trl import TrlParser

from doge_model import PRESETS, DogeForCausalLM
from tests.helpers.training import STAGES
from train.arguments import StageConfig
from train.stages.pretrain import new_config

RECIPES = Path("train/recipes")
# The tables stand in the model cards at huggingface.co/SmallDoge. Their text is in github.com/SmallDoges/small-doge:
# docs/Doge-20M-Instruct.md at af63484 for SFT and DPO, docs/Doge-320M.md at 945910b for pre-training.
TUNING = {  # learning rates of SFT and DPO
    "Doge-20M": (8e-4, 8e-5),
    "Doge-20M-MoE": (8e-4, 8e-5),
    "Doge-60M": (6e-4, 6e-5),
    "Doge-120M-MoE": (6e-4, 6e-5),
    "Doge-160M": (4e-4, 4e-5),
    "Doge-320M": (2e-4, 2e-5),
}
PRETRAINING = {  # learning rate, steps, millions of tokens per step
    "Doge-20M": (8e-3, 8_000, 0.5),
    "Doge-60M": (6e-3, 16_000, 1.0),
    "Doge-160M": (4e-3, 24_000, 1.5),
    "Doge-320M": (2e-3, 32_000, 2.0),
}
MILLION = 2**20  # tokens: the card's 0.25M are 128 sequences of 2048


def read(recipe: Path, tmp_path: Path, *words: str) -> tuple[Any, ...]:
    """The arguments of a recipe, as its stage gets them on this machine."""
    parser = TrlParser(STAGES[recipe.stem.split("-")[0]][1:])
    return parser.parse_args_and_config(["--config", str(recipe), "--output_dir", str(tmp_path), *words])


def learning_rates(config: Any, steps: int) -> list[float]:
    """The learning rate before every step, as a share of the peak."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = config.get_warmup_steps(steps)
    schedule = get_scheduler(config.lr_scheduler_type, optimizer, warmup, steps, config.lr_scheduler_kwargs)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("model", TUNING)
def test_tuning_has_the_numbers_of_the_card(model: str, stage: str, tmp_path: Path) -> None:
    _, data, config = read(RECIPES / model / f"{stage}.yaml", tmp_path)
    source = {"sft": "HuggingFaceTB/smoltalk", "dpo": "HuggingFaceH4/ultrafeedback_binarized"}[stage]
    length, batch = {"sft": (2048, 0.25), "dpo": (1024, 0.125)}[stage]
    assert [part.path for part in data.datasets] == [source]
    assert config.learning_rate == TUNING[model][stage == "dpo"]
    assert (config.num_train_epochs, config.max_length, config.batch_tokens) == (2, length, batch * MILLION)
    assert (config.bf16, config.seed, config.weight_decay, config.max_grad_norm) == (True, 233, 0.01, 1.0)
    assert config.optim.startswith("adamw")
    rates = learning_rates(config, 1000)
    assert rates[:100] == pytest.approx([i / 100 for i in range(100)])
    assert rates[100] == 1.0
    assert rates[550] == pytest.approx(0.55, abs=1e-3)  # half-way down a cosine from 1 to 0.1
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", PRETRAINING)
def test_base_models_have_the_numbers_of_the_card(model: str, tmp_path: Path) -> None:
    arguments, data, config = read(RECIPES / model / "pretrain.yaml", tmp_path)
    rate, steps, batch = PRETRAINING[model]
    assert arguments.preset == model
    assert {source.path for source in data.datasets} == {"HuggingFaceTB/smollm-corpus"}
    assert (config.learning_rate, config.max_steps, config.batch_tokens) == (rate, steps, batch * MILLION)
    assert (config.max_length, config.packing, config.bf16, config.seed) == (2048, True, True, 233)
    assert (config.weight_decay, config.max_grad_norm) == (0.01, 1.0)
    rates = learning_rates(config, steps)
    tenth = steps // 10
    assert rates[: tenth + 1] == pytest.approx([i / tenth for i in range(tenth + 1)])
    assert set(rates[tenth : 9 * tenth]) == {1.0}
    assert rates[9 * tenth :] == pytest.approx([1 - i / tenth for i in range(tenth)])


# recipes/doge/Doge-*-R1/{sft,grpo}/config_full.yaml of github.com/SmallDoges/small-doge, and its README at 2acde32,
# which names the data. Eight generations are stated for 60M alone, and are TRL's default.
REASONING = {"Doge-20M": 8e-4, "Doge-60M": 6e-4, "Doge-160M": 4e-4, "Doge-320M": 2e-4}  # learning rates of both stages


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft-reasoning", "grpo"])
@pytest.mark.parametrize("model", REASONING)
def test_reasoning_has_the_published_numbers(model: str, stage: str, tmp_path: Path) -> None:
    _, data, config = read(RECIPES / model / f"{stage}.yaml", tmp_path)
    source = {"sft-reasoning": "HuggingFaceH4/Bespoke-Stratos-17k", "grpo": "AI-MO/NuminaMath-TIR"}[stage]
    assert [part.path for part in data.datasets] == [source]
    assert (config.learning_rate, config.num_train_epochs, config.seed) == (REASONING[model], 1, 233)
    assert (config.bf16, config.weight_decay, config.max_grad_norm) == (True, 0.01, 1.0)
    assert config.activation_checkpointing is True
    assert config.optim.startswith("adamw")
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 128
    if stage == "grpo":
        lengths = (config.max_prompt_length, config.max_completion_length, config.num_generations)
        assert lengths == (512, 1024, 8)
        assert (config.generation_batch_size, config.reward_funcs) == (128, ["accuracy", "format"])
    else:
        assert (config.max_length, config.packing, config.batch_tokens) == (4096, True, 128 * 4096)
    rates = learning_rates(config, 1000)
    assert rates[:101] == pytest.approx([i / 100 for i in range(101)])
    assert rates[550] == pytest.approx(0.55, abs=1e-3)
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("model", REASONING)
def test_each_stage_of_reasoning_starts_from_the_one_before_it(model: str) -> None:
    recipes = [yaml.safe_load((RECIPES / model / f"{stage}.yaml").read_text()) for stage in ("sft-reasoning", "grpo")]
    assert [recipe["model_name_or_path"] for recipe in recipes] == [
        f"runs/{model}/dpo",
        recipes[0]["output_dir"],
    ]


@pytest.mark.parametrize("model", ["Doge-20M-MoE", "Doge-120M-MoE"])
def test_models_with_experts_start_from_the_dense_one_of_their_dimensions(model: str, tmp_path: Path) -> None:
    arguments, experts = read(RECIPES / model / "upcycle.yaml", tmp_path)
    size, dense = PRESETS[model], PRESETS[arguments.model_name_or_path.removeprefix("SmallDoge/")]
    assert (experts.num_experts, experts.num_experts_per_tok) == (size.num_experts, size.num_experts_per_tok)
    assert (size.hidden_size, size.num_hidden_layers) == (dense.hidden_size, dense.num_hidden_layers)
    chained = yaml.safe_load((RECIPES / model / "sft.yaml").read_text())["model_name_or_path"]
    assert chained == yaml.safe_load((RECIPES / model / "upcycle.yaml").read_text())["output_dir"]


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*oge*/*.yaml")), ids=str)
def test_every_recipe_can_be_read_and_any_field_overridden(recipe: Path, tmp_path: Path) -> None:
    parsed = read(recipe, tmp_path, "--seed", "7")
    assert [part.seed for part in parsed if "seed" in vars(part)] == [7]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("Doge-*/[psd]*.yaml")), ids=str)
def test_the_batch_holds_on_any_number_of_devices(
    recipe: Path, world_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STAGES[recipe.stem.split("-")[0]][-1], "world_size", world_size)
    *_, config = read(recipe, tmp_path)
    assert issubclass(type(config), StageConfig)
    at_once = config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size
    assert at_once * config.max_length == config.batch_tokens


def test_doge_tiny_fits_eight_megabytes_in_bfloat16(tmp_path: Path) -> None:
    arguments, _, _ = read(RECIPES / "doge-tiny" / "pretrain.yaml", tmp_path)
    tokenizer = yaml.safe_load((RECIPES / "doge-tiny" / "tokenizer.yaml").read_text())
    with torch.device("meta"):
        model = DogeForCausalLM(new_config(arguments, tokenizer["vocab_size"]))
    assert 2 * sum(parameter.numel() for parameter in model.parameters()) < 8e6


def test_the_decay_of_doge_tiny_branches_from_its_stable_run(tmp_path: Path) -> None:
    names = ("pretrain", "pretrain-decay")
    models, _, (stable, decay) = zip(
        *(read(RECIPES / "doge-tiny" / f"{name}.yaml", tmp_path) for name in names), strict=True
    )
    assert models[1] == models[0]
    start = int(decay.resume_from_checkpoint.split("-")[-1])
    assert start % stable.save_steps == 0
    assert decay.max_steps - start == decay.lr_scheduler_kwargs["num_decay_steps"]
    for field in ("learning_rate", "batch_tokens", "max_length", "weight_decay", "adam_beta2", "seed", "bf16"):
        assert vars(decay)[field] == vars(stable)[field]


def test_doge_tiny_learns_to_evict(tmp_path: Path) -> None:
    model, _, config = read(RECIPES / "doge-tiny" / "pretrain.yaml", tmp_path)
    assert model.keep_window_size < config.max_length


@pytest.mark.parametrize("model", ["doge-tiny", "doge-20m-10min", "doge-sums"])
def test_every_recipe_of_a_real_run_starts_from_a_model_that_is_there_or_that_another_one_makes(model: str) -> None:
    recipes = [yaml.safe_load(path.read_text()) for path in (RECIPES / model).glob("*.yaml")]
    made = {recipe["output_dir"] for recipe in recipes}
    starts = {recipe["model_name_or_path"] for recipe in recipes if "model_name_or_path" in recipe}
    assert starts
    for start in starts:
        assert start in made or (Path(start) / "config.json").is_file(), f"nothing makes {start}"


@pytest.mark.parametrize("path", sorted((RECIPES / "accelerate").glob("*.yaml")), ids=str)
def test_accelerate_reads_its_configurations(path: Path) -> None:
    config = accelerate_configs.load_config_from_file(str(path))
    assert config.num_processes > 1
