"""Conversations as Python holds them turn by turn, on folders whose templates and tokenizers differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

import doge_export
from doge_export import Conversation
from doge_export.export import ExportOptions, export
from tests.helpers.fakes import sentencepiece_tokenizer
from tests.helpers.models import tiny_model
from tests.runtimes.folders import WINDOW

LLAMA_2 = "{% for m in messages %}{{ '[u]' if m.role == 'user' else '[a]' }}{{ m.content }}{% endfor %}[a]"
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 12}
LAST = "why?"  # is asked of the conversation after it was saved


class Talk(NamedTuple):
    """Questions that are put to a folder, one after the other."""

    name: str
    folder: str
    options: dict[str, Any]
    questions: tuple[str, ...]
    system: str | None = None


TALKS = (
    Talk("trained", "doge-20m-10min-int8", GREEDY, ("Hello!", "What is water? \U0001f642"), "Be kind."),
    Talk(
        "growing",
        "without-template",
        {**GREEDY, "prompt_lookup_num_tokens": 4},
        ("Once upon a time", " there was \U0001f642", " and"),
    ),
    Talk("spaces", "metaspace", {**GREEDY, "repetition_penalty": 10.0}, ("hi", "and you", "hello world")),
    # each answer is shortened, so its template writes it otherwise than it was said
    Talk(
        "beyond",
        "native",
        {**GREEDY, "repetition_penalty": 10.0, "stop": ["#", "F", "p", "D"]},
        ("Once " * 30, "Hi", "b"),
    ),
    Talk("repeats", "native", {**GREEDY, "no_repeat_ngram_size": 2}, ("Once upon", "Once upon", "Once " * 30)),
)


def talk_folders(work: Path) -> Iterator[Path]:
    """A folder without a chat template, which ends its answers early, and one that puts a space before every text."""
    plain = Path(shutil.copytree(work / "doge-tiny-fp32", work / "without-template"))
    (plain / "export_report.json").unlink()  # its list has the files as they were
    for path in (plain / "chat_template.jinja", plain / "tokenizer_config.json"):
        path.unlink(missing_ok=True)  # either may hold the template
    model = doge_export.load(plain, threads=1, operators=False)
    end = model.generate("Once upon a time", temperature=0.0, ignore_eos=True, max_new_tokens=8).token_ids[-1]
    (plain / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    yield plain
    yield metaspace_folder(work)


def metaspace_folder(work: Path) -> Path:
    """A random model whose tokenizer is of Llama 2's kind."""
    source, backend = work / "checkpoints" / "metaspace", sentencepiece_tokenizer()._backend
    tokens = backend.get_vocab_size()
    tiny_model(vocab_size=tokens, keep_window_size=WINDOW).save_pretrained(source)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = LLAMA_2
    tokenizer.save_pretrained(source)
    return export(ExportOptions(str(source), work / "metaspace", "fp32", report_tokens=0)).folder


def talks(work: Path) -> list[dict[str, Any]]:
    """Every conversation: its turns, the file that it was saved to, the last answer, and one file of /save."""
    return [talk_of(work, talk) for talk in TALKS]


def talk_of(work: Path, talk: Talk) -> dict[str, Any]:
    """One conversation."""
    model = doge_export.load(work / talk.folder, threads=1, operators=False)
    held = Conversation(model, model.options(**talk.options), talk.system)
    turns = [turn_of(held, question) for question in talk.questions]
    held.save(work / f"python-{talk.name}.safetensors")
    (work / f"python-{talk.name}.json").write_text(json.dumps(held.transcript()))
    last = turn_of(held, LAST)
    return {**talk._asdict(), "turns": turns, "last": last, "transcribed": transcribed(work, talk)}


def transcribed(work: Path, talk: Talk) -> dict[str, Any]:
    """The last turn of the conversation whose text alone was read from a file."""
    model = doge_export.load(work / talk.folder, threads=1, operators=False)
    return turn_of(Conversation.resume(model, model.options(**talk.options), work / f"python-{talk.name}.json"), LAST)


def turn_of(held: Conversation, question: str) -> dict[str, Any]:
    """A question's answer, and all that the conversation then holds."""
    answer = held.ask(question)
    "".join(answer)
    kept = {"messages": list(held.messages), "tokens": list(held._ids), "text": held._text}
    counts = {"turns": [list(turn) for turn in held._turns], "position": held.position}
    return {"question": question, "fed": answer.result.prompt_tokens, **kept, **counts}
