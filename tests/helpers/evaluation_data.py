"""A tiny talking model and hand-made records in the format of the evaluation sets."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

from doge_export.export.pipeline import export
from doge_export.options import ExportOptions
from tests.helpers.checkpoints import byte_vocabulary, save_tokenizer, tiny_llama

WINDOW = 3072  # tokens, of bytes: the longest prompt here, three examples of BBH, has some 2,000

BBH_TASKS = [
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
]

RECORDS: dict[str, list[dict[str, Any]]] = {
    "piqa": [
        {"goal": "Keep tea warm.", "sol1": "Put a lid on the pot.", "sol2": "Put a lid on the roof.", "label": 0},
        {"goal": "Dry a wet shoe.", "sol1": "Fill it with soup.", "sol2": "Fill it with paper.", "label": 1},
        {"goal": "Find a stud.", "sol1": "Knock on the wall.", "sol2": "Paint the wall.", "label": 0},
        {"goal": "Open a jar.", "sol1": "Warm the lid.", "sol2": "Cool the lid.", "label": 0},
    ],
    "arc_easy": [
        {"query": "Question: What do bees make?", "choices": ["honey", "bread", "glass", "steel"], "gold": 0},
        {"query": "Question: What is ice made of?", "choices": ["sand", "salt", "water", "wood"], "gold": 2},
    ],
    "arc_challenge": [
        {"query": "Question: Which is lighter?", "choices": ["lead", "gold", "iron", "cork"], "gold": 3},
        {"query": "Question: What pulls the tides?", "choices": ["wind", "the moon", "fish", "ships"], "gold": 1},
        {"query": "Question: What is not alive?", "choices": ["a fern", "a stone", "a cat", "moss"], "gold": 1},
    ],
    "hellaswag": [
        {
            "ctx": "Baking a cake: A woman breaks two eggs. she",
            "label": 1,
            "endings": ["flies away.", "stirs them into the flour.", "is an egg.", "sells the house."],
        },
        {
            "ctx": "Fixing a bike: Turn the bike over.",
            "label": 0,
            "endings": ["Take off the wheel.", "Eat the wheel.", "Sing to the wheel.", "Post the wheel."],
        },
    ],
    "bbh": [
        {"task": "navigate", "input": "Turn left. Turn right. Are you back?", "target": "Yes"},
        *[{"task": name, "input": f"Question {number}?", "target": "No"} for number, name in enumerate(BBH_TASKS)],
    ],
    "mmlu_test": [
        {"subject": "world_religions", "question": "Who?", "choices": ["A man", "Two", "All", "None"], "answer": 0},
        {"subject": "anatomy", "question": "How many ribs?", "choices": ["2", "24", "7", "100"], "answer": 1},
        {"subject": "anatomy", "question": "How many eyes?", "choices": ["2", "24", "7", "100"], "answer": 0},
    ],
    "mmlu_dev": [
        {"subject": "anatomy", "question": "How many toes?", "choices": ["1", "5", "10", "40"], "answer": 2},
    ],
    "ifeval": [
        {
            "key": 1,
            "prompt": "Write without any commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        },
        {
            "key": 2,
            "prompt": "Write at least 2000 words.",
            "instruction_id_list": ["length_constraints:number_words"],
            "kwargs": [{"relation": "at least", "num_words": 2000}],
        },
    ],
}


def write_records(folder: Path, records: dict[str, list[dict[str, Any]]] = RECORDS) -> Path:
    """Every file; piqa compressed, as all may be."""
    folder.mkdir(exist_ok=True)
    for name, rows in records.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if name == "piqa":
            (folder / f"{name}.jsonl.xz").write_bytes(lzma.compress(text.encode()))
        else:
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def save_talking_checkpoint(folder: Path) -> Path:
    """A random Llama with a byte-level tokenizer and ChatML."""
    model = tiny_llama(vocab_size=len(byte_vocabulary()), max_position_embeddings=WINDOW)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def export_talking(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint in fp32, so that it agrees with PyTorch to rounding."""
    return export(ExportOptions(str(checkpoint), folder, "fp32", threads=1, report_tokens=0)).folder


def save_talking_place(folder: Path) -> None:
    """A talking model as a checkpoint and exported, and records: folder/checkpoint, folder/export, folder/data."""
    save_talking_checkpoint(folder / "checkpoint")
    export_talking(folder / "checkpoint", folder / "export")
    write_records(folder / "data")
