"""Training an adapter: it loads in plain PEFT, is merged by doge-export, and its run goes on after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import metadata_load
from safetensors.torch import load_file

from doge_model import load_checkpoint
from tests.helpers.checkpoints import byte_level_llama, byte_vocabulary, save_doge, save_tokenizer
from tests.helpers.models import random_ids, relative_difference, torch_logits
from tests.helpers.training import QUIET, conversations, logged, preferences, run_stage, write_jsonl
from train.stage import last_checkpoint

pytestmark = pytest.mark.slow

IDS = random_ids(40)
TUNING = QUIET | {"max_length": 64, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "max_steps": 4}
EXPERTS: dict[str, Any] = {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 2}
PLAIN = """
import sys
import numpy as np, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
ids = torch.tensor([[int(word) for word in sys.argv[3].split()]])
with torch.no_grad():
    np.save(sys.argv[2], model(input_ids=ids).logits[0].numpy())
assert "doge_model" not in sys.modules
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    byte_level_llama().save_pretrained(folder)
    return with_data(folder)


def with_data(folder: Path) -> Path:
    """The folder of a model, with a tokenizer, a licence and data."""
    save_tokenizer(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    write_jsonl(folder / "chats.jsonl", conversations())
    write_jsonl(folder / "pairs.jsonl", preferences())
    return folder


def tune(base: Path, output_dir: Path, stage: str = "sft", **options: Any) -> Path:
    data = {"sft": "chats.jsonl", "dpo": "pairs.jsonl"}[stage]
    given = {"model_name_or_path": base, "data_folder": base, "datasets": [data], "use_peft": True}
    run_stage(stage, **given | TUNING | {"output_dir": output_dir} | options)
    return output_dir


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune(base, tmp_path_factory.mktemp("tuned") / "legal", save_strategy="steps", save_steps=2)


def plain_peft_logits(folder: Path, scratch: Path) -> Any:
    """float32 [40, vocab], computed without a package of ours."""
    words = [str(folder), str(scratch / "logits.npy"), " ".join(map(str, IDS.tolist()))]
    subprocess.run([sys.executable, "-c", PLAIN, *words], check=True, timeout=300, cwd=scratch)
    return np.load(scratch / "logits.npy")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True, "use_rslora": True},
        {"lora_modules_to_save": ["lm_head"], "lora_target_modules": ["all-linear"]},
    ],
    ids=["LoRA", "DoRA", "the head too"],
)
def test_what_is_saved_loads_in_plain_peft_and_here_alike(options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    folder = tune(base, tmp_path / "legal", **options)
    ours = torch_logits(load_checkpoint(folder).model, IDS)
    assert relative_difference(ours, plain_peft_logits(folder, tmp_path)) < 1e-5
    assert relative_difference(ours, torch_logits(load_checkpoint(base).model, IDS)) > 1e-4


def test_the_adapter_names_its_base_and_its_card_is_true(base: Path, tuned: Path) -> None:
    assert json.loads((tuned / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    fields, card = metadata_load(tuned / "README.md"), (tuned / "README.md").read_text()
    assert fields is not None
    assert (fields["library_name"], fields["license"], "lora" in fields["tags"]) == ("peft", "apache-2.0", True)
    trained = sum(tensor.numel() for tensor in load_file(tuned / "adapter_model.safetensors").values())
    assert f"A LoRA adapter of {trained:,} parameters" in card
    assert "Rank 16, alpha 32, on down_proj, gate_proj, k_proj" in card
    assert f"## Base\n\n`{base}`" in card


def test_the_code_of_the_card_runs(tuned: Path) -> None:
    code = (tuned / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # our own text
    assert (
        relative_difference(torch_logits(names["model"], IDS), torch_logits(load_checkpoint(tuned).model, IDS)) < 1e-5
    )


def test_a_killed_run_goes_on_as_if_it_had_not_been(base: Path, tuned: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    (run / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"cut")  # killed while saving
    (run / "adapter_model.safetensors").unlink()
    assert last_checkpoint(run).name == "checkpoint-2"
    tune(base, run, resume_from_checkpoint="last")
    assert logged(run) == logged(tuned)
    tensors = [load_file(folder / "adapter_model.safetensors") for folder in (run, tuned)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[1])


def test_the_reference_of_dpo_is_the_base_with_the_adapter_off(base: Path, tmp_path: Path) -> None:
    whole = tune(base, tmp_path / "whole", "dpo", use_peft=False)  # its reference is a second model
    adapter = tune(base, tmp_path / "adapter", "dpo", lora_dropout=0.0)
    assert logged(adapter)[0] == pytest.approx(np.log(2))  # the adapter begins as nothing
    assert logged(adapter, "logps/chosen")[0] == pytest.approx(logged(whole, "logps/chosen")[0], rel=1e-5)
    assert logged(adapter)[-1] < 0.6
    margins = [logged(adapter, f"rewards/{name}")[-1] for name in ("margins", "chosen", "rejected")]
    assert margins[0] == pytest.approx(margins[1] - margins[2], rel=1e-4)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("experts", [{}, EXPERTS], ids=["dense", "experts"])
def test_a_doge_is_adapted_too(stage: str, experts: dict[str, Any], tmp_path: Path) -> None:
    save_doge(tmp_path / "base", vocab_size=len(byte_vocabulary()), **experts)
    base = with_data(tmp_path / "base")
    folder = tune(base, tmp_path / "adapter", stage, save_dtype="bfloat16")
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert {name.split(".")[-3] for name in tensors} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    merged, before = (torch_logits(load_checkpoint(each).model, IDS) for each in (folder, base))
    assert relative_difference(merged, before) > 1e-4


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"lora_r": 0}, "lora_r is 0; it must be at least 1"),
    "dropout": ({"lora_dropout": 1.0}, "lora_dropout is 1.0; it must be at least 0 and below 1"),
    "target": ({"lora_target_modules": ["q_proj", "qproj"]}, "lora_target_modules names 'qproj'; it must be a module"),
    "another path": (
        {"lora_target_modules": ["q_proj", "mlp.k_proj"]},
        "lora_target_modules names 'mlp.k_proj'; it must be a module of the model, or the end of one",
    ),
    "all beside another": (
        {"lora_target_modules": ["all-linear", "embed_tokens"]},
        "lora_target_modules has all-linear beside others; it must stand alone, or be left out",
    ),
    "all whole": ({"lora_modules_to_save": ["all-linear"]}, "lora_modules_to_save names 'all-linear'; it must be a"),
    "whole": ({"lora_modules_to_save": ["head"]}, "lora_modules_to_save names 'head'; it must be a module"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_option_that_does_not_fit_is_one_sentence(
    fault: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = REFUSED[fault]
    with pytest.raises(SystemExit) as stop:
        tune(base, tmp_path / "run", **options)
    assert stop.value.code == 2
    assert f"Error: {words}" in capsys.readouterr().err.splitlines()[-1]


def test_an_adapter_is_no_base_of_an_adapter_but_of_a_whole_training(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_stage(
            "sft", model_name_or_path=tuned, datasets=[base / "chats.jsonl"], output_dir=tmp_path / "a", use_peft=True
        )
    assert "which is an adapter; with use_peft it must be a whole model" in capsys.readouterr().err
    run_stage("sft", model_name_or_path=tuned, datasets=[base / "chats.jsonl"], output_dir=tmp_path / "b", **TUNING)
    assert json.loads((tmp_path / "b/config.json").read_text())["model_type"] == "llama"


def test_a_folder_that_holds_an_adapter_is_not_written_over(
    base: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tune(base, tuned)
    assert "it must hold no run, but has" in capsys.readouterr().err
