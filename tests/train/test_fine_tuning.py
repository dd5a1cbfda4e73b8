"""The first hour of a fine-tune: what is saved loads right, says what it is, and no run is overwritten."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import metadata_load

from doge_model import load_checkpoint
from doge_model.saving import llama_lacks
from tests.helpers.checkpoints import byte_level_llama, save_tokenizer
from tests.helpers.models import random_ids, relative_difference, torch_logits
from tests.helpers.plain_transformers import plain_logits
from tests.helpers.training import QUIET, conversations, logged, preferences, run_stage, write_jsonl
from train.command import check_paths, given_options
from train.errors import DataError
from train.stages.sft import FineTuningConfig

pytestmark = pytest.mark.slow

IDS = random_ids(40)
TUNING = QUIET | {"max_length": 64, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "max_steps": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose ChatML template has no marks, with a licence."""
    folder = tmp_path_factory.mktemp("base")
    byte_level_llama().save_pretrained(folder)
    save_tokenizer(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    write_jsonl(folder / "chats.jsonl", conversations())
    write_jsonl(folder / "pairs.jsonl", preferences())
    return folder


def tune(base: Path, output_dir: Path, stage: str = "sft", data: str = "chats.jsonl", **options: Any) -> Path:
    run_stage(
        stage, model_name_or_path=base, data_folder=base, datasets=[data], output_dir=output_dir, **TUNING | options
    )
    return output_dir


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "chat"
    return tune(base, folder, save_strategy="steps", save_steps=2)


def test_a_tuned_llama_loads_in_plain_transformers_or_is_refused(base: Path, tuned: Path, tmp_path: Path) -> None:
    preferred = tune(tuned, tmp_path / "preferred", "dpo", data=str(base / "pairs.jsonl"))
    masked = tune(base, tmp_path / "masked", keep_llama=False)
    same = [tuned / "checkpoint-2", tuned, preferred]
    plain = plain_logits([*same, masked], IDS, tmp_path / "plain")
    logits = [torch_logits(load_checkpoint(folder).model, IDS) for folder in (base, *same, masked)]
    for before, after, folder in zip(logits, logits[1:], same, strict=False):
        theirs = plain[folder]
        assert not isinstance(theirs, str), theirs
        assert relative_difference(after, theirs) < 2e-6
        assert relative_difference(before, after) > 1e-3  # it has learned
    assert "has model type `doge_model`" in str(plain[masked])


def test_a_mask_is_learned_where_that_is_asked_for(base: Path, tmp_path: Path) -> None:
    model = load_checkpoint(tune(base, tmp_path / "masked", keep_llama=False)).model
    assert not torch.equal(model.get_parameter("model.layers.0.input_residual"), torch.ones(32))
    names = llama_lacks(dict(model.named_parameters()))
    assert all(model.get_parameter(name).requires_grad for name in names)


def test_a_run_goes_on_from_a_checkpoint_that_is_a_llama(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = tune(base, tmp_path / "resumed", resume_from_checkpoint=tuned / "checkpoint-2")
    assert logged(resumed) == logged(tuned)
    models = [load_checkpoint(folder).model for folder in (resumed, tuned)]
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))
    assert "missing keys" not in capsys.readouterr().err


def test_the_best_checkpoint_is_loaded_whole_where_only_the_best_is_a_llama(base: Path, tmp_path: Path) -> None:
    best: dict[str, Any] = {
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_share": 0.2,
    }
    steps: dict[str, Any] = {"eval_steps": 1, "save_steps": 1, "max_steps": 2, "warmup_steps": 1, "learning_rate": 10.0}
    folder = tune(base, tmp_path / "run", keep_llama=False, **best, **steps)  # no step at first, then far too large
    assert json.loads((folder / "checkpoint-2/config.json").read_text())["model_type"] == "doge_model"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    assert (
        relative_difference(
            torch_logits(load_checkpoint(folder).model, IDS), torch_logits(load_checkpoint(base).model, IDS)
        )
        == 0
    )


def test_the_card_names_base_data_recipe_and_figures(base: Path, tuned: Path) -> None:
    card = (tuned / "README.md").read_text()
    assert metadata_load(tuned / "README.md")["license"] == "apache-2.0"
    assert f"## Base\n\n`{base}`" in card
    assert "| chats.jsonl | train | 1.0 |" in card
    recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert (recipe["learning_rate"], recipe["max_length"], recipe["datasets"]) == (1e-2, 64, [{"path": "chats.jsonl"}])
    assert "| steps | 4 |" in card
    assert f"| loss of the last logged steps | {logged(tuned)[-1]:,.6g} |" in card
    assert "None" not in card
    assert "| steps | 2 |" in (tuned / "checkpoint-2" / "README.md").read_text()


@pytest.mark.parametrize(("keep", "line"), [(True, 'from_pretrained("{}")'), (False, 'load_checkpoint("{}")')])
def test_the_card_shows_how_this_very_model_loads(keep: bool, line: str, base: Path, tmp_path: Path) -> None:
    run = tmp_path / "a run's"
    card = (tune(base, run, keep_llama=keep, max_steps=1) / "README.md").read_text()
    assert line.format(run) in card
    assert f"`doge-export {shlex.quote(str(run))}`" in card


def test_the_recipe_of_a_card_hides_tokens(base: Path, tmp_path: Path) -> None:
    card = (tune(base, tmp_path / "run", max_steps=1, hub_token="hf_secret") / "README.md").read_text()
    assert "hf_secret" not in card


def test_a_model_with_experts_has_a_card_and_is_refused_by_transformers(base: Path, tmp_path: Path) -> None:
    run_stage(
        "upcycle", model_name_or_path=base, output_dir=tmp_path / "experts", num_experts=16, num_experts_per_tok=2
    )
    assert f"## Base\n\n`{base}`" in (tmp_path / "experts" / "README.md").read_text()
    assert json.loads((tmp_path / "experts" / "config.json").read_text())["model_type"] == "doge_model"


def test_the_template_of_the_base_is_saved_and_answers_alone_were_learned(base: Path, tuned: Path) -> None:
    assert (tuned / "chat_template.jinja").read_text() == (base / "chat_template.jinja").read_text()
    assert logged(tuned)[-1] < logged(tuned)[0]


def test_a_template_without_marks_may_come_from_a_file(base: Path, tmp_path: Path) -> None:
    template = base / "chat_template.jinja"
    tuned = tune(base, tmp_path / "run", chat_template_path=template, max_steps=1)
    assert (tuned / "chat_template.jinja").read_text() == template.read_text()


def test_a_folder_that_holds_a_run_is_refused(base: Path, tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        tune(base, tuned)
    assert stop.value.code == 2
    assert f"output_dir is {tuned}; it must hold no run, but has checkpoint-2: give" in capsys.readouterr().err


def test_a_run_that_is_replaced_leaves_no_checkpoint_to_resume_from(base: Path, tmp_path: Path) -> None:
    tune(base, tmp_path / "run", save_strategy="steps", save_steps=2)
    tune(base, tmp_path / "run", save_strategy="steps", save_steps=3, max_steps=3, overwrite_output_dir=True)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_run_that_is_resumed_may_hold_itself(base: Path, tmp_path: Path) -> None:
    tune(base, tmp_path / "run", save_strategy="steps", save_steps=2)
    tune(base, tmp_path / "run", max_steps=5, resume_from_checkpoint="last")
    assert len(logged(tmp_path / "run")) == 5


def test_a_missing_file_is_told_before_the_imports_that_take_seconds(tmp_path: Path) -> None:
    code = (
        "import sys, train.command as command\n"
        "try: command.run_stage('sft')\n"
        "finally: print(sorted({'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)))"
    )
    words = ["--datasets", "nope.jsonl", "--output_dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *words], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert done.stderr == "Error: the file nope.jsonl is missing; give a path relative to data_folder\n"


def test_sources_of_a_recipe_are_looked_for_in_its_data_folder(tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").touch()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data_folder: {tmp_path}\ndatasets:\n- path: here.jsonl\n- path: owner/name\n- path: gone.txt\n")
    with pytest.raises(DataError, match=f"the file {tmp_path}/gone.txt is missing"):
        check_paths(given_options(["--config", str(recipe)]))
    check_paths(given_options(["--config", str(recipe), "--datasets", "here.jsonl"]))


def test_help_begins_with_the_options_of_this_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_stage("sft", help="")
    own, inherited = capsys.readouterr().out.split("options of TRL and transformers:")
    assert all(f"--{name}" in own for name in ("model_name_or_path", "datasets", "output_dir", "keep_llama"))
    assert "--weight_decay" in inherited
    assert "--weight_decay" not in own


def test_bars_do_not_overlap(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluation: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_share": 0.5,
        "save_strategy": "steps",
    }
    tune(base, tmp_path / "run", disable_tqdm=False, save_steps=2, **evaluation)
    drawn = capfd.readouterr().err
    assert "evaluating 1/" in drawn
    assert "training: 100%" in drawn
    assert "\x1b[A" not in drawn  # by which a bar draws below another
    assert "Writing" not in drawn


def test_on_a_cpu_products_are_float32_unless_bfloat16_is_given(tmp_path: Path) -> None:
    assert FineTuningConfig(str(tmp_path), use_cpu=True).bf16 is False
    assert FineTuningConfig(str(tmp_path), use_cpu=True, bf16=True).bf16 is True
