"""The options of an evaluation, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError
from ..runtime.threads import check_threads

SETTINGS = ("card", "harness")  # the first one is the default
TASKS = ("ifeval", "mmlu", "bbh", "arc", "piqa", "hellaswag")  # in the order of the Doge card's row
MAX_GEN_TOKS = 256  # new tokens where a task names no limit; so do the harness's own models


@dataclass(frozen=True)
class EvaluationOptions:
    """One evaluation of one model.

    Attributes:
        tasks: some of TASKS, and names of the harness's tasks, groups and tags; none where only a perplexity is wanted.
        settings: one of SETTINGS, which `doge_export.evaluation.tasks` describes.
        data_dir: a folder of local files; None takes the records from the hub.
        include_path: a folder of further tasks in the harness's YAML; may replace the harness's own.
        limit: items of each task, at equal distances over it; None takes all.
        num_fewshot: examples before each item, where a task has a choice; None takes the task's own number.
        chat_template: whether prompts become chats; None lets them under "card", where the model has a template.
        perplexity: a UTF-8 text file to measure the perplexity of.
        window, stride: of the perplexity, in tokens; see `doge_export.evaluation.perplexity`.
        journal: a folder for finished requests; None takes `.doge-eval` in the current folder.
        threads: of the computation; None leaves the choice to the runtime.
        adapter: the name of one of an exported folder's adapters, with which it computes.

    Raises:
        OptionError: an option is outside its allowed values.
    """

    tasks: tuple[str, ...] = ()
    settings: str = SETTINGS[0]
    data_dir: Path | None = None
    include_path: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool | None = None
    perplexity: Path | None = None
    window: int | None = None
    stride: int | None = None
    journal: Path | None = None
    threads: int | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(dict.fromkeys(self.tasks)))
        if not self.tasks and self.perplexity is None:
            raise OptionError(
                f"a measure is missing; give --tasks ({', '.join(TASKS)} or others of the harness) or --perplexity FILE"
            )
        if self.settings not in SETTINGS:
            raise OptionError(f"settings is {self.settings!r}; it must be one of {', '.join(SETTINGS)}")
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise OptionError(
                f"the folder {self.data_dir} is missing; give --data-dir a folder of .jsonl or .jsonl.xz files"
            )
        if self.include_path is not None and not self.include_path.is_dir():
            raise OptionError(f"the folder {self.include_path} is missing; give --include-path a folder of YAML tasks")
        if self.include_path is not None and not self.tasks:
            raise OptionError("--tasks is missing, which --include-path belongs to; give --tasks A,B,...")
        check_threads(self.threads)
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"limit is {self.limit}; it must be at least 1")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise OptionError(f"num_fewshot is {self.num_fewshot}; it must be at least 0")
        if self.perplexity is not None and not self.perplexity.is_file():
            raise OptionError(f"the file {self.perplexity} is missing; give --perplexity a UTF-8 text")
        if self.perplexity is None and (self.window is not None or self.stride is not None):
            raise OptionError("--perplexity is missing, which --window and --stride belong to; give --perplexity FILE")
