"""The options of an export, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from pathlib import Path

from doge_common.hub_id import is_hub_id

from .errors import OptionError
from .names import DEMO, in_name, model_names
from .places import check_model, check_target
from .recipes import DEFAULT, DEFAULT_BITS, LEAST_BITS, MOST_BITS, RECIPES, ROLES
from .runtime.adapter_names import check_names
from .runtime.threads import check_threads
from .texts.calibration_source import check_calibration
from .texts.labelled import check_texts

MIN_REPORT_TOKENS = 16
BUILT_IN_TEXT = "built-in"  # of calibrate_window: the text that comes along
RECENT = 32  # tokens for which calibrate_window keeps every key: nobody has asked for newer ones yet

# option: its least value, its largest, and both in words
RANGES = {
    "bits": (LEAST_BITS, MOST_BITS, f"from {LEAST_BITS} to {MOST_BITS}, scales included"),
    "keep_window": (1, inf, "at least 1"),
    "keep_sinks": (0, inf, "at least 0"),
    "calibration_tokens": (1, inf, "at least 1"),
    "seed": (0, 2**64 - 1, "from 0 to 2^64 - 1"),  # the seeds that torch's generators take
}
# option: its user, in words
ONLY_INT4 = dict.fromkeys(("bits", "wide", "calibration_tokens"), "int4")
ONLY_BY_TEXT = dict.fromkeys(("calibration", "seed"), "int4 and with kv_int8")


@dataclass(frozen=True)
class ExportOptions:
    """One export. A value that is not allowed raises OptionError at construction.

    Attributes:
        model: a checkpoint folder, a .gguf file, a hub id, or the demo's name, smollm2-135m.
        out: the folder to write; None takes `default_name`, in the current folder.
        weights: the name of a recipe, which says how large matrices are stored.
        kv_int8: keep the keys and values of the state in 8 bits.
        kv_float32: keep them in float32 by DogeStep as well, which takes float16 with int8, int4 and keep-grid.
        revision: of a hub repository.
        keep_window: narrow the window to so many tokens; None keeps the checkpoint's keep_window_size.
        keep_sinks: first tokens of a stream whose keys never leave the window; None keeps the checkpoint's number. A
            Llama has four, a Doge as many as its config.json says.
        calibrate_window: the text by which a narrowed window learns the keys to keep, as `calibration`, or "built-in".
        overwrite: replace `out` if it is an earlier export.
        threads: of onnxruntime while the export is verified; None takes the runtime's default.
        bits: mean bits of a layer's weight in int4, scales included; None means DEFAULT_BITS.
        wide: the ROLES that int4 stores in 8 bits; None lets a measurement choose the rows.
        calibration: the text that int4 is rounded by and that gives kv_int8 its scales; None takes the built-in text.
        It is a text file, or a dataset with a column `text`: .jsonl, .json, .parquet, .csv, a folder, a hub name.
        calibration_tokens: tokens of that text to use; None means CALIBRATION_TOKENS.
        seed: of all that is drawn: pieces of the text, tokens on which int4 measures sensitivity; None means 0.
        report_tokens: tokens of text on which the report compares the export with PyTorch; 0 leaves that out.
        push_to_hub: a hub id, "owner/name", of the repository that the folder is pushed to; a missing one is made.
        private: make that repository a private one.
        adapter: the folder or hub id of a PEFT adapter, which is merged into the model before anything else.
        adapters: those that stay beside it, by the names that calls will use: their folders or hub ids.
        texts: a file of texts on which a classifier is compared with PyTorch; None takes pieces of the built-in text.
            It is .txt, a text a line, or .jsonl with `text` and, for the accuracy, `label`.
    """

    model: str
    out: Path | None = None
    weights: str = DEFAULT
    revision: str | None = None
    keep_window: int | None = None
    keep_sinks: int | None = None
    calibrate_window: str | None = None
    overwrite: bool = False
    threads: int | None = None
    kv_int8: bool = False
    kv_float32: bool = False
    bits: float | None = None
    wide: tuple[str, ...] | None = None
    calibration: str | None = None
    calibration_tokens: int | None = None
    seed: int | None = None
    report_tokens: int = 4096
    push_to_hub: str | None = None
    private: bool = False
    adapter: str | None = None
    adapters: dict[str, str] | None = None
    texts: str | None = None

    def __post_init__(self) -> None:
        self._check_values()
        self._check_combinations()
        check_model(self.model)
        check_target(self.folder, self.overwrite)

    @property
    def mean_bits(self) -> float:
        """`bits`, or DEFAULT_BITS for None."""
        return DEFAULT_BITS if self.bits is None else self.bits

    @property
    def kv_float16(self) -> bool:
        """Whether DogeStep keeps keys and values in float16."""
        return RECIPES[self.weights].kv_float16 and not self.kv_float32 and not self.kv_int8

    @property
    def folder(self) -> Path:
        """The folder that the export becomes."""
        return Path(self.default_name) if self.out is None else Path(self.out)

    @property
    def default_name(self) -> str:
        """The model's name, the weights, and each option that makes another model of them."""
        names = model_names(self.model)
        if self.revision:
            names.append(in_name(self.revision))
        if self.adapter:
            names += model_names(self.adapter)
        if self.adapters:
            names.append("adapters")
        flags = {"kv-int8": self.kv_int8, "kv-float32": self.kv_float32}
        parts = [*names, self.weights, *(name for name, is_set in flags.items() if is_set)]
        differences = {
            "window": self.keep_window,
            "sinks": self.keep_sinks,
            "learned": None if self.calibrate_window is None else in_name(Path(self.calibrate_window).stem),
            "bits": self.bits,
            "wide": "-".join(self.wide or ()) or None,
            "by": in_name(Path(self.calibration or "").stem) or None,
            "tokens": self.calibration_tokens,
            "seed": self.seed,
        }
        parts += [f"{word}-{value}" for word, value in differences.items() if value is not None]
        return "-".join(parts)

    def _check_values(self) -> None:
        check_choice("weights", self.weights, RECIPES)
        for role in self.wide or ():
            check_choice("wide", role, ROLES)
        check_threads(self.threads)
        for name, (least, most, words) in RANGES.items():
            value = vars(self)[name]
            if value is not None and not least <= value <= most:
                raise OptionError(f"{name} is {value}; it must be {words}")
        if self.report_tokens != 0 and self.report_tokens < MIN_REPORT_TOKENS:
            raise OptionError(
                f"report_tokens is {self.report_tokens}; it must be 0, for no report, or at least {MIN_REPORT_TOKENS}"
            )
        if self.push_to_hub is not None and not is_hub_id(self.push_to_hub):
            raise OptionError(f"push_to_hub is {self.push_to_hub!r}; it must be a hub id (owner/name)")
        check_names(self.adapters or {})
        if self.texts is not None:
            check_texts(self.texts)
        texts = [self.calibration, None if self.calibrate_window == BUILT_IN_TEXT else self.calibrate_window]
        for text in texts:
            if text is not None:
                check_calibration(text)

    def _check_combinations(self) -> None:
        recipe = RECIPES[self.weights]
        if self.texts is not None and not self.report_tokens:
            raise OptionError("texts goes with a report, which report_tokens 0 leaves out; leave out one of them")
        if self.private and self.push_to_hub is None:
            raise OptionError("private goes with push_to_hub; leave it out, or give a repository to push to")
        if recipe.rounding != "calibrated":
            users = ONLY_INT4 if self.kv_int8 else ONLY_INT4 | ONLY_BY_TEXT
            for name, user in users.items():
                if vars(self)[name] is not None:
                    raise OptionError(f"{name} goes with {user}; leave it out with {self.weights}")
        if self.kv_int8 and self.kv_float32:
            raise OptionError("kv_int8 and kv_float32 exclude each other; give one of them")
        if self.kv_float32 and not recipe.kv_float16:
            raise OptionError(f"kv_float32 goes with int8, int4 and keep-grid; leave it out with {self.weights}")
        if self.keep_window is not None and self.keep_sinks is not None:
            check_sinks(self.keep_sinks, self.keep_window)
        if self.calibrate_window is not None:
            if self.keep_window is None:
                raise OptionError("calibrate_window goes with keep_window; give the tokens to keep, or leave it out")
            check_least_window(self.keep_window, self.keep_sinks)
        if self.bits is not None and self.wide is not None:
            raise OptionError("bits and wide exclude each other; give bits to have rows chosen, or wide to name them")
        if recipe.rounding == "kept" and self.model != DEMO and not self.model.lower().endswith(".gguf"):
            raise OptionError(
                f"model is {self.model!r}; it must be a .gguf file, as {self.weights} keeps the numbers of a .gguf file"
            )


def check_sinks(keep_sinks: int, window: int) -> None:
    """Refuse sinks that leave a window no room for another key.

    Raises:
        OptionError: they do.
    """
    if keep_sinks >= window:
        raise OptionError(
            f"keep_sinks is {keep_sinks}; it must be below the window of {window} tokens, so that others find room"
        )


def check_least_window(keep_window: int, keep_sinks: int | None) -> None:
    """Refuse a window that has no room for more than the recent keys and the sinks.

    Args:
        keep_window: of the export, in tokens.
        keep_sinks: None where they are not chosen yet.

    Raises:
        OptionError: it has none.
    """
    least, sinks = 2 * RECENT + (keep_sinks or 0), "the sinks" if keep_sinks is None else f"{keep_sinks} sinks"
    if keep_window < least:
        needed = f"{least} and the number of sinks" if keep_sinks is None else str(least)
        raise OptionError(
            f"keep_window is {keep_window}; with calibrate_window it must be at least {needed}, as recent keys need "
            f"{2 * RECENT} beside {sinks}"
        )


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise OptionError unless `value` is one of `choices`."""
    if value not in choices:
        raise OptionError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
