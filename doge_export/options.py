"""What an export can be asked for, checked before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import OptionError
from .recipes import DEFAULT, DEFAULT_BITS, LEAST_BITS, MOST_BITS, RECIPES, ROLES
from .runtime.threads import check_threads

DEMO = "smollm2-135m"  # doge_model.gguf.DEMO; importing that takes seconds
MIN_REPORT_TOKENS = 16
DATASET_FILES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}  # and the builder in datasets
TEXT_FILES = (".txt", ".md", ".text")
SEEDS = 2**64  # what torch's generators take
REPORT_FILE = "export_report.json"  # every exported folder has one; a folder without it is never overwritten


@dataclass(frozen=True)
class ExportOptions:
    """One export.

    Attributes:
        model: a local checkpoint folder, a .gguf file, a hub id, or a demo name.
        out: the folder to write; None means the model's name + "-" + weights (+ "-kv-int8"), in the current folder.
        weights: how large matrices are stored, the name of a recipe.
        kv_int8: keep the keys and values of the state in 8 bits.
        revision: of a hub repository.
        keep_window: narrow the window to so many tokens; None keeps the checkpoint's keep_window_size.
        overwrite: replace `out` if it is an earlier export.
        threads: of onnxruntime while the export is verified; None takes the runtime's default.
        bits: mean bits of a weight that int4 chooses between 4 and 8 for, scales included; None means DEFAULT_BITS.
        wide: what int4 stores in 8 bits, some of ROLES, instead of choosing by what is measured; None chooses.
        calibration: the text that int4 is rounded by, and that gives kv_int8 its scales: a text file, a dataset with a
            column `text` (a file of DATASET_FILES, a folder, a name on the hub), or None for the built-in one.
        calibration_tokens: of it that are used; None means CALIBRATION_TOKENS.
        seed: of what is drawn: pieces of the text, tokens on which int4 measures sensitivity; None means 0.
        report_tokens: of text on which the export is compared with PyTorch for the report; 0 leaves that out.
    """

    model: str
    out: Path | None = None
    weights: str = DEFAULT
    revision: str | None = None
    keep_window: int | None = None
    overwrite: bool = False
    threads: int | None = None
    kv_int8: bool = False
    bits: float | None = None
    wide: tuple[str, ...] | None = None
    calibration: str | None = None
    calibration_tokens: int | None = None
    seed: int | None = None
    report_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.weights not in RECIPES:
            raise OptionError(f"weights is {self.weights!r}; allowed are {', '.join(RECIPES)}")
        self._check_rounding()
        check_threads(self.threads)
        if self.keep_window is not None and self.keep_window < 1:
            raise OptionError(f"keep_window is {self.keep_window}; it must be at least 1")
        if self.report_tokens != 0 and self.report_tokens < MIN_REPORT_TOKENS:
            raise OptionError(
                f"report_tokens is {self.report_tokens}; it must be 0, for no report, or at least {MIN_REPORT_TOKENS}"
            )
        if not self.model.strip():
            raise OptionError("MODEL is empty; give a checkpoint folder, a .gguf file, a hub id or smollm2-135m")
        self._check_folder(self.folder)

    @property
    def mean_bits(self) -> float:
        """`bits`, or what stands for None."""
        return DEFAULT_BITS if self.bits is None else self.bits

    @property
    def folder(self) -> Path:
        """Where the export goes."""
        if self.out is not None:
            return self.out
        local = Path(self.model)  # resolved, "." has a name too
        name = local.resolve().name if local.exists() else self.model.rstrip("/").rsplit("/", 1)[-1]
        name = name.removesuffix(".gguf")
        return Path(f"{name}-{self.weights}" + ("-kv-int8" if self.kv_int8 else ""))

    def _check_rounding(self) -> None:
        recipe = RECIPES[self.weights]
        by_text = recipe.rounding == "calibrated"
        for name in ("bits", "wide", "calibration_tokens"):
            if vars(self)[name] is not None and not by_text:
                raise OptionError(f"{name} goes with int4, which rounds by a text; {self.weights} does not")
        for name in ("calibration", "seed"):
            if vars(self)[name] is not None and not by_text and not self.kv_int8:
                raise OptionError(
                    f"{name} goes with int4, which rounds by a text, and with kv_int8; {self.weights} needs no text"
                )
        if self.bits is not None and self.wide is not None:
            raise OptionError("bits and wide exclude each other: one chooses what gets 8 bits, the other names it")
        if self.bits is not None and not LEAST_BITS <= self.bits <= MOST_BITS:
            raise OptionError(f"bits is {self.bits:g}; it must be from {LEAST_BITS} to {MOST_BITS}, scales included")
        unknown = [role for role in self.wide or () if role not in ROLES]
        if unknown:
            raise OptionError(f"wide names {unknown[0]!r}; allowed are {', '.join(ROLES)}")
        if self.calibration_tokens is not None and self.calibration_tokens < 1:
            raise OptionError(f"calibration_tokens is {self.calibration_tokens}; it must be at least 1")
        if self.seed is not None and not 0 <= self.seed < SEEDS:
            raise OptionError(f"seed is {self.seed}; it must be from 0 to 2^64 - 1")
        if self.calibration is not None:
            check_calibration(self.calibration)
        if recipe.rounding == "kept" and self.model != DEMO and not self.model.lower().endswith(".gguf"):
            raise OptionError(f"{self.weights} keeps the numbers of a .gguf file, which {self.model!r} is not")

    def _check_folder(self, folder: Path) -> None:
        if not folder.absolute().parent.is_dir():
            raise OptionError(f"the folder {folder.absolute().parent} does not exist; create it first")
        if not os.access(folder.absolute().parent, os.W_OK):
            raise OptionError(f"the folder {folder.absolute().parent} cannot be written to; give another OUT")
        if not folder.exists() and not folder.is_symlink():
            return
        if not self.overwrite:
            raise OptionError(f"{folder} exists already; give another OUT, or --overwrite to replace an earlier export")
        if folder.is_symlink() or not folder.is_dir():
            raise OptionError(f"{folder} is not a folder, so --overwrite leaves it alone; give another OUT")
        if any(folder.iterdir()) and not (folder / REPORT_FILE).is_file():
            raise OptionError(
                f"{folder} holds something else than an export (no {REPORT_FILE}), so --overwrite leaves it alone; "
                "give another OUT"
            )


def check_calibration(source: str) -> None:
    """OptionError for a file that is not there, or no text; whether there is such a dataset shows when it is read."""
    if not source.strip():
        raise OptionError("calibration is empty; give a text file, or the name of a dataset")
    path = Path(source)
    if path.is_file() and path.suffix.lower() not in DATASET_FILES:
        read_calibration_file(path)
    elif not path.exists() and (
        path.suffix.lower() in (*DATASET_FILES, *TEXT_FILES) or source.startswith((".", "/", "~"))
    ):
        raise OptionError(f"there is no calibration text {source}; give a file, or the name of a dataset")


def read_calibration_file(path: Path) -> str:
    """A text file; OptionError where it cannot be read, is not UTF-8, or holds no words."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"calibration text {path} cannot be read: {error}; give a text file in UTF-8") from error
    if not text.replace("\0", "").strip():
        raise OptionError(f"calibration text {path} is empty; give a text like what the model will be asked for")
    return text
