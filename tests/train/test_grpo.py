"""GRPO on a tiny model: it learns what is rewarded, goes on after a kill, and refuses what it cannot train with."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerState
from trl import GRPOTrainer

from doge_model import load_checkpoint
from tests.helpers.checkpoints import byte_level_llama, save_tokenizer
from tests.helpers.training import QUIET, logged, make_tokenizer, run_pretrain, run_stage, write_jsonl
from train import answers
from train.arguments import ModelArguments
from train.data import DataArguments, Source
from train.errors import DataError
from train.grpo_trainer import DogeGRPOTrainer, scored
from train.model_card import figures
from train.onnx_rollouts import OnnxRollouts
from train.records import as_problem
from train.stages.grpo import hold_completions
from train.stages.measure import MeasureArguments, measure

pytestmark = pytest.mark.slow

GRPO: dict[str, Any] = QUIET | {
    "max_completion_length": 8,
    "num_generations": 4,
    "batch_completions": 8,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "max_steps": 2,
    "save_strategy": "no",
    "reward_funcs": ["tests.train.test_grpo.spaces"],
}


def spaces(completions: Any, **_: Any) -> list[float]:
    """The share of spaces in a completion, which even a random model can write."""
    texts = [messages[0]["content"] for messages in completions]
    return [text.count(" ") / max(len(text), 1) for text in texts]


def nothing(completions: Any, **_: Any) -> list[str]:
    return ["a good answer"] * len(completions)


def silent(completions: Any, **_: Any) -> list[None]:
    return [None] * len(completions)


def problems(count: int = 12) -> list[dict[str, Any]]:
    return [{"problem": f"What is {i} + {i}?", "solution": str(2 * i)} for i in range(count)]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few steps with a chat template, and problems beside it."""
    folder = tmp_path_factory.mktemp("dense")
    run_pretrain(make_tokenizer(tmp_path_factory.mktemp("tokenizer")), folder, max_steps=2)
    write_jsonl(folder / "problems.jsonl", problems())
    return folder


def reason(base: Path, output_dir: Path, **options: Any) -> Path:
    paths = {"model_name_or_path": base, "data_folder": base, "datasets": ["problems.jsonl"], "output_dir": output_dir}
    run_stage("grpo", **GRPO | paths | options)
    return output_dir


def test_what_is_rewarded_becomes_likelier(dense: Path, tmp_path: Path) -> None:
    rewards = logged(reason(dense, tmp_path / "run", max_steps=20, batch_completions=32, learning_rate=3e-2), "reward")
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "made by `python -m train.grpo`" in card
    assert f"| mean reward of a completion, last logged steps | {rewards[-1]:,.6g} |" in card


def test_a_run_goes_on_as_if_it_had_not_ended(dense: Path, tmp_path: Path) -> None:
    whole = reason(dense, tmp_path / "whole", max_steps=10, save_strategy="steps", save_steps=8)  # an epoch has 6
    again = reason(dense, tmp_path / "again", max_steps=10, resume_from_checkpoint=whole / "checkpoint-8")
    assert logged(again, "reward") == logged(whole, "reward")
    models = [load_checkpoint(folder).model for folder in (whole, again)]
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))


REUSED: dict[str, tuple[dict[str, Any], list[int]]] = {  # options, steps of an epoch that completions end at
    "twice": ({"num_iterations": 2}, [2, 4]),
    "over two steps": ({"steps_per_generation": 4}, [2, 4]),
    "three times": ({"num_iterations": 3, "batch_completions": 16}, [3]),
    # 9 batches of 4 an epoch are steps of 2, 2, 2, 2 and 1: the 5th ends it
    "over a step and a half": ({"steps_per_generation": 3, "datasets": ["nine.jsonl"], "max_steps": 9}, [3, 5, 8]),
}


@pytest.mark.parametrize("case", REUSED)
def test_a_run_whose_completions_serve_several_steps_goes_on_where_they_end(
    case: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, ends = REUSED[case]
    write_jsonl(dense / "nine.jsonl", problems(9))
    options = {"max_steps": 5} | options
    whole = reason(dense, tmp_path / "whole", save_strategy="steps", save_steps=1, **options)
    for step in range(1, options["max_steps"]):
        resume = options | {"resume_from_checkpoint": whole / f"checkpoint-{step}"}
        if step in ends:
            again = reason(dense, tmp_path / str(step), **resume)
            assert all(logged(again, name) == logged(whole, name) for name in ("reward", "loss", "grad_norm"))
            continue
        with pytest.raises(SystemExit):
            reason(dense, tmp_path / str(step), **resume)
        assert f"checkpoint-{step}; its step must be a multiple of {ends[0]} in its epoch" in capsys.readouterr().err


@pytest.mark.parametrize("every", [3, 0.3])
def test_checkpoints_of_which_none_could_be_gone_on_from_are_refused_before_the_first(
    every: float, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"num_iterations": 4, "max_steps": 9, "save_strategy": "steps"}  # an epoch has 12
    with pytest.raises(SystemExit):
        reason(dense, tmp_path / "run", save_steps=every, **options)
    assert f"save_steps is {every}; it must be a multiple of 4, or each checkpoint" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*"))


def test_prompts_come_in_one_order_without_shuffling(dense: Path, tmp_path: Path) -> None:
    options = {"max_steps": 12, "shuffle_dataset": "false", "reward_funcs": ["tests.train.test_grpo.first_sums"]}
    asked.clear()
    reason(dense, tmp_path / "run", **options)
    assert asked[:48] == asked[48:]  # of two epochs
    assert len(set(asked)) == 12


asked: list[str] = []


def first_sums(completions: Any, prompts: Any, **_: Any) -> list[float]:
    asked.extend(prompt[0]["content"] for prompt in prompts)
    return spaces(completions)


def test_a_reward_without_any_opinion_may_stand_beside_others(dense: Path, tmp_path: Path) -> None:
    here = "tests.train.test_grpo."
    run = reason(dense, tmp_path / "run", reward_funcs=[f"{here}silent", f"{here}spaces"])
    assert "mean reward of a completion" in (run / "README.md").read_text()


def test_a_card_leaves_out_figures_that_are_none() -> None:
    state = TrainerState(log_history=[{"loss": 0.5, "reward": None}])
    assert figures(state) == {"steps": "0", "epochs": "0.00", "loss of the last logged steps": "0.5"}


def test_experts_are_trained_with_their_balance(dense: Path, tmp_path: Path) -> None:
    run_stage("upcycle", model_name_or_path=dense, output_dir=tmp_path / "moe", num_experts=16, num_experts_per_tok=2)
    write_jsonl(tmp_path / "moe" / "problems.jsonl", problems())
    run = reason(tmp_path / "moe", tmp_path / "run")
    assert all(value > 0 for value in logged(run, "aux_loss"))
    assert all(0 < value <= 1 for value in logged(run, "experts_used"))


def test_a_reference_holds_the_model_where_beta_asks_for_it(dense: Path, tmp_path: Path) -> None:
    kl = logged(reason(dense, tmp_path / "run", beta=0.5, max_steps=3), "kl")
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-6


def test_an_evaluation_has_the_rewards_of_held_out_problems(dense: Path, tmp_path: Path) -> None:
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "eval_share": 0.5, "per_device_eval_batch_size": 4}
    assert len(logged(reason(dense, tmp_path / "run", **evaluation), "eval_reward")) == 2


def test_the_batch_is_as_many_completions_on_any_number_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for processes, steps in (("1", 16), ("4", 4)):
        config = SimpleNamespace(batch_completions=128, per_device_train_batch_size=8)
        monkeypatch.setenv("WORLD_SIZE", processes)
        hold_completions(config)
        assert config.gradient_accumulation_steps == steps


def test_right_answers_of_a_model_are_counted(dense: Path) -> None:
    data = DataArguments([Source("problems.jsonl")], data_folder=str(dense))
    figures = measure(ModelArguments(str(dense)), data, MeasureArguments(kind="problem", max_new_tokens=4))
    assert (figures["records"], figures["accuracy"], figures["format"]) == (12, 0.0, 0.0)  # it has learned nothing


def test_shares_of_right_answers_have_their_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [r"\boxed{1}", r"\boxed{2}", "?", r"\boxed{4}"]
    monkeypatch.setattr(answers, "answer", lambda *_: texts)
    nobody: Any = None
    figures = answers.right_answers(nobody, nobody, [{"prompt": [], "solution": str(i + 1)} for i in range(4)], 8)
    assert (figures["accuracy"], figures["format"]) == (0.75, 0.0)
    assert figures["accuracy_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_log_probabilities_are_those_of_the_logits() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0))]]])
    logps, entropies = scored(logits, torch.tensor([[0, 1]]), wants_entropy=True)
    assert logps.exp().tolist() == [pytest.approx([1 / 2, 3 / 4])]
    assert entropies.tolist() == [pytest.approx([0.693147, 0.562335], abs=1e-5)]  # ln 2; -(ln(3/4) 3/4 + ln(1/4)/4)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a reward of text": (
        {"reward_funcs": ["tests.train.test_grpo.nothing"]},
        "the reward tests.train.test_grpo.nothing returned 'a good answer' for a completion; it must return a list",
    ),
    "no opinion": (
        {"reward_funcs": ["tests.train.test_grpo.silent"]},
        "the rewards tests.train.test_grpo.silent returned None for all completions of a batch; one must be a number",
    ),
    "a weight that is no number": (
        {"reward_weights": ["nan"]},
        "reward_weights is [nan]; each must be a finite number",
    ),
    "no such reward": ({"reward_funcs": ["taste"]}, "reward_funcs has 'taste'; it must be one of accuracy"),
    "weights of other rewards": ({"reward_weights": [1, 2]}, "Number of reward weights (2) must match"),
    "a group of one": ({"num_generations": 1}, "at least 2 generations per prompt"),
    "half a group": ({"batch_completions": 6, "per_device_train_batch_size": 2}, "divisible by num_generations (4)"),
    "a batch that does not divide": ({"batch_completions": 6}, "batch_completions is 6; it must be a multiple of 4"),
    "a batch of tokens": ({"batch_tokens": 256}, "batch_tokens is given; give batch_completions"),
    "no temperature": ({"temperature": 0}, "temperature is 0.0; it must be above 0"),
    "a reference that is followed": ({"sync_ref_model": True}, "sync_ref_model is true"),
    "prompts that are too long": ({"max_prompt_length": 3}, "no prompt has at most 3 tokens; raise max_prompt_length"),
    "no completion": ({"max_completion_length": 0}, "max_completion_length is 0; it must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_train_is_refused_in_one_sentence(
    case: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = REFUSED[case]
    with pytest.raises(SystemExit):
        reason(dense, tmp_path / "run", **options)
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_key_that_cannot_be_read_is_named_by_its_line(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "bad.jsonl", [*problems(2), {"problem": "Why?", "solution": "because of it"}])
    with pytest.raises(SystemExit) as stop:
        reason(dense, tmp_path / "run", datasets=[path])
    assert stop.value.code == 1
    assert f"{path}, line 3: the solution 'because of it' cannot be read as a key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"problem": "?", "solution": 5}, "solution is 5; it must be text"),
        ({"problem": "?"}, "solution is missing"),
        ({"solution": "5"}, "prompt is missing"),
        ({"prompt": [{"role": "assistant", "content": "5"}], "solution": "5"}, "prompt ends with an answer"),
    ],
)
def test_a_record_that_is_no_problem_is_refused(record: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_problem(record)


def test_a_problem_is_text_or_messages() -> None:
    prompt = [{"role": "user", "content": "1 + 1?"}]
    expected = {"prompt": prompt, "solution": "2"}
    assert as_problem({"problem": "1 + 1?", "solution": "2", "other": 1}) == expected
    assert as_problem({"prompt": prompt, "solution": "2"}) == expected


ADAPTERS: dict[str, dict[str, Any]] = {
    "whole": {},
    "DoRA": {"use_peft": True, "use_dora": True, "lora_dropout": 0.0},
    "a tied embedding": {"use_peft": True, "lora_target_modules": ["embed_tokens", "q_proj"], "lora_dropout": 0.0},
}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_completions_of_the_runtime_have_the_log_probabilities_of_the_trainer(
    adapter: dict[str, Any], dense: Path, tmp_path: Path
) -> None:
    seen: list[float] = []

    class Watched(OnnxRollouts):
        def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
            out = super().__call__(prompts, trainer)
            ids = [torch.tensor([p + c]) for p, c in zip(out["prompt_ids"], out["completion_ids"], strict=True)]
            for row, logps in zip(ids, out["logprobs"], strict=True):
                with torch.no_grad():
                    theirs, _, _ = trainer._get_per_token_logps_and_entropies(
                        trainer.model, row, torch.ones_like(row), len(logps)
                    )
                seen.append((theirs[0] - torch.tensor(logps)).abs().max().item())
            return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.onnx_rollouts.OnnxRollouts", Watched)
        reason(dense, tmp_path / "run", use_onnx_rollouts=True, max_steps=3, temperature=0.7, **adapter)
    assert len(seen) == 24
    assert max(seen) < 1e-4


def test_a_run_with_the_runtime_learns_and_goes_on_as_if_it_had_not_ended(dense: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"use_onnx_rollouts": True, "max_steps": 12, "batch_completions": 32}
    options |= {"learning_rate": 3e-2, "lr_scheduler_type": "constant"}
    whole = reason(dense, tmp_path / "whole", save_strategy="steps", save_steps=6, **options)
    again = reason(dense, tmp_path / "again", resume_from_checkpoint=whole / "checkpoint-6", **options)
    rewards = logged(whole, "reward")
    assert logged(again, "reward") == rewards
    assert sum(rewards[-3:]) > 1.5 * sum(rewards[:3])


def test_an_adapter_learns_with_either_engine_and_its_base_stays(dense: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"use_peft": True, "lora_dropout": 0.0, "learning_rate": 1e-1, "beta": 0.01}
    options |= {"max_steps": 12, "batch_completions": 32, "lr_scheduler_type": "constant"}
    options |= {"lora_modules_to_save": ["lm_head"]}  # a random base has nothing that a thin update could bring out
    for engine in (False, True):
        run = reason(dense, tmp_path / str(engine), use_onnx_rollouts=engine, **options)
        rewards = logged(run, "reward")
        assert sum(rewards[-3:]) > 1.5 * sum(rewards[:3])
        assert logged(run, "kl")[0] == pytest.approx(0, abs=1e-6)
        assert (run / "adapter_model.safetensors").is_file() and not (run / "model.safetensors").exists()
        assert load_checkpoint(run).model.config.vocab_size == load_checkpoint(dense).model.config.vocab_size


def test_a_lifted_llama_stays_one(tmp_path: Path) -> None:
    base = tmp_path / "base"
    byte_level_llama().save_pretrained(base)
    save_tokenizer(base)
    write_jsonl(base / "problems.jsonl", problems())
    run = reason(base, tmp_path / "run", use_onnx_rollouts=True, max_prompt_length=None)
    assert json.loads((run / "config.json").read_text())["model_type"] == "llama"


def test_options_that_the_runtime_has_not_are_refused(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        reason(dense, tmp_path / "run", use_onnx_rollouts=True, generation_kwargs={"num_beams": 2})
    assert "generation_kwargs has num_beams; it must be left out, or set use_onnx_rollouts" in capsys.readouterr().err


def test_log_probabilities_on_a_cpu_are_those_of_trls_own_head_and_0_at_padding(dense: Path, tmp_path: Path) -> None:
    pairs: list[tuple[Any, Any, torch.Tensor]] = []

    class Compared(DogeGRPOTrainer):
        def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            ids, mask, keep, *rest = args
            mask = mask.clone()
            mask[0, -3:] = 0  # as behind a completion that ended
            given = (model, ids, mask, keep, *rest)
            ours = super()._get_per_token_logps_and_entropies(*given, **kwargs)
            theirs = GRPOTrainer._get_per_token_logps_and_entropies(self, *given, **kwargs)
            pairs.append((ours, theirs, mask[:, -keep:]))
            return ours

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.stages.grpo.DogeGRPOTrainer", Compared)
        reason(dense, tmp_path / "run", max_steps=1, temperature=0.7)
    for ours, theirs, written in pairs:
        assert torch.allclose(ours[0], theirs[0] * written, atol=1e-5)
        assert torch.allclose(ours[1], theirs[1] * written, atol=1e-4)
    assert any(not written.all() for *_, written in pairs)
