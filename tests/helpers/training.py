"""A small world to train in: text, conversations, preferences, and the stages run on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.adapters import AdapterArguments
from train.arguments import ModelArguments
from train.data import DataArguments
from train.stage import run
from train.stages.classify import ClassifierConfig, LabelledDataArguments, classify
from train.stages.dpo import PreferenceConfig, dpo
from train.stages.grpo import ReasoningConfig, grpo
from train.stages.pretrain import NewModelArguments, PretrainConfig, pretrain
from train.stages.recall import RecallArguments, recall
from train.stages.reward import RewardModelConfig, reward
from train.stages.sft import FineTuningConfig, sft
from train.stages.sums import SumsArguments, sums
from train.stages.tokenizer import TokenizerArguments, train_tokenizer
from train.stages.upcycle import UpcycleArguments, upcycle

STAGES: dict[str, tuple[Any, ...]] = {  # the stage, then the types of its arguments
    "tokenizer": (train_tokenizer, TokenizerArguments, DataArguments),
    "recall": (recall, RecallArguments),
    "sums": (sums, SumsArguments),
    "pretrain": (pretrain, NewModelArguments, DataArguments, PretrainConfig),
    "upcycle": (upcycle, ModelArguments, UpcycleArguments),
    "sft": (sft, AdapterArguments, DataArguments, FineTuningConfig),
    "dpo": (dpo, AdapterArguments, DataArguments, PreferenceConfig),
    "classify": (classify, ModelArguments, LabelledDataArguments, ClassifierConfig),
    "reward": (reward, ModelArguments, DataArguments, RewardModelConfig),
    "grpo": (grpo, AdapterArguments, DataArguments, ReasoningConfig),
}
ALICE = Path(__file__).parents[2] / "doge_export" / "texts" / "alice.txt"
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "keep_window_size": 128,
}
QUIET = {
    "report_to": "none",
    "disable_tqdm": True,
    "activation_checkpointing": False,
    "logging_steps": 1,
    "bf16": False,
}


def run_stage(stage: str, **options: Any) -> None:
    """Run a stage as its command line does."""
    run(*STAGES[stage], args=arguments(options))


def arguments(options: dict[str, Any]) -> list[str]:
    """Options as words of a command line."""
    words: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        words += [f"--{name}", *map(str, values)]
    return words


def write_jsonl(path: Path, records: list[Any]) -> Path:
    """One JSON value a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def conversations(count: int = 24) -> list[dict[str, Any]]:
    """Questions with one answer each."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What comes after {i}?"},
                {"role": "assistant", "content": f"After {i} comes {i + 1}."},
            ]
        }
        for i in range(count)
    ]


def preferences(count: int = 24) -> list[dict[str, Any]]:
    """Questions with a right and a wrong answer."""
    return [
        {
            "prompt": [{"role": "user", "content": f"What comes after {i}?"}],
            "chosen": f"After {i} comes {i + 1}.",
            "rejected": f"I like {i} more.",
        }
        for i in range(count)
    ]


def make_tokenizer(folder: Path) -> Path:
    """A tokenizer of 400 entries."""
    run_stage("tokenizer", output_dir=folder, vocab_size=400, model_max_length=128, datasets=[ALICE])
    return folder


def pretrain_options(tokenizer: Path, output_dir: Path, **options: Any) -> dict[str, Any]:
    """A few steps of pre-training, four rows of 64 tokens each."""
    defaults = {
        "max_length": 64,
        "batch_tokens": 256,
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "save_strategy": "no",
    }
    paths = {"tokenizer_name_or_path": tokenizer, "output_dir": output_dir, "datasets": [ALICE]}
    return TINY | QUIET | defaults | paths | options


def run_pretrain(tokenizer: Path, output_dir: Path, **options: Any) -> Path:
    """Pre-train in this process."""
    run_stage("pretrain", **pretrain_options(tokenizer, output_dir, **options))
    return output_dir


def logged(output_dir: Path, name: str = "loss") -> list[float]:
    """The values that a trainer logged under a name, step by step."""
    state = json.loads((output_dir / "trainer_state.json").read_text())
    return [entry[name] for entry in state["log_history"] if name in entry]
