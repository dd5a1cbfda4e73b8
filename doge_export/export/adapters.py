"""The adapters of one base: read and checked first, written beside it, then measured and verified one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from doge_model.adapter_files import AdapterFiles, read_adapter
from doge_model.adapter_updates import REMEDY, LowRank, beside, check_form
from doge_model.adapters import check_base
from doge_model.checkpoint import Checkpoint, load_tokenizer, locate

from ..errors import CheckpointError, VerificationError
from ..graph import FoldedDecoder, Update, fold_updates
from ..measure.adapters import AdapterQuality, AdapterReport, adapter_quality
from ..measure.verification import Verification, verify
from ..options import ExportOptions
from ..runtime.adapters import ENDING, FOLDER, Adapters, step_library, write_adapter
from ..runtime.decoder import Decoder

Progress = Callable[[str], None]

ENDS = ("bos_token", "eos_token", "unk_token")


@dataclass(frozen=True)
class NamedAdapter:
    """An adapter to export.

    Attributes:
        name: by which it will be used.
        source: its folder or hub id, as given.
        files: its files.
    """

    name: str
    source: str
    files: AdapterFiles


def read_adapters(options: ExportOptions, base: PreTrainedTokenizerFast | None) -> list[NamedAdapter]:
    """The adapters that are asked for. base: the tokenizer that all of them will have.

    Raises:
        CheckpointError: one is missing, of another base, of another text, or of a form that only a merge takes.
    """
    found = []
    for name, source in (options.adapters or {}).items():
        files = read_adapter(locate(source, None, None, local_files_only=False))
        check_form(files)
        if options.adapter is None:  # else the base has another name than its checkpoint
            check_base(files, options.model)
        check_text(files, base)
        found.append(NamedAdapter(name, source, files))
    return found


def check_text(adapter: AdapterFiles, base: PreTrainedTokenizerFast | None) -> None:
    """Refuse an adapter that reads text in another way than its base, whose tokenizer and template it would get.

    Raises:
        CheckpointError: its folder has another vocabulary, chat template or other special tokens.
    """
    own = load_tokenizer(adapter.folder)
    differs = None if own is None else difference(own, base)
    if differs is not None:
        raise CheckpointError(
            f"the adapter {adapter.folder} has {differs} of its own, but beside a base it would get the base's; give "
            f"both the same tokenizer files, or {REMEDY}"
        )


def difference(own: PreTrainedTokenizerFast, base: PreTrainedTokenizerFast | None) -> str | None:
    """The first thing in which two tokenizers read or end a text otherwise; None if there is none.

    The token for padding is none of them: trainers choose one, and no text has it.
    """
    if base is None or own.get_vocab() != base.get_vocab():
        return "a vocabulary"
    for name in ENDS:
        if own.special_tokens_map.get(name) != base.special_tokens_map.get(name):
            return f"{name} ({own.special_tokens_map.get(name)})"
    padding = {own.pad_token, base.pad_token}
    others = (special_tokens(own) ^ special_tokens(base)) - padding
    if others:
        return f"special tokens ({', '.join(sorted(others))})"
    if own.chat_template is not None and own.chat_template != base.chat_template:
        return "a chat template"
    return None


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> set[str]:
    """The tokens that count as no text."""
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def write_adapters(
    adapters: list[NamedAdapter], checkpoint: Checkpoint, folded: FoldedDecoder, folder: Path, base: int | None
) -> None:
    """Write the file of every adapter; base: the number that the graphs have too.

    Raises:
        CheckpointError: an adapter does not fit.
    """
    tensors = {name: tensor.detach().float().numpy() for name, tensor in checkpoint.model.named_parameters()}
    for adapter in adapters:
        assert base is not None
        with beside(checkpoint, adapter.files) as updates:
            check_mask_bias(checkpoint, adapter, updates)
            arrays = fold_updates(folded.dimensions, tensors, as_numpy(updates))
        if not arrays:
            raise CheckpointError(f"the adapter {adapter.source} changes nothing of this base; leave it out")
        write_adapter(folder / FOLDER / f"{adapter.name}{ENDING}", arrays, base)


def check_mask_bias(checkpoint: Checkpoint, adapter: NamedAdapter, updates: Mapping[str, LowRank]) -> None:
    """Refuse an adapted mask behind biased values, whose update has a bias too.

    Raises:
        CheckpointError: it is one.
    """
    if checkpoint.model.config.attention_bias and any(name.endswith("dt_proj") for name in updates):
        raise CheckpointError(f"the adapter {adapter.source} adapts dt_proj of a model with biases, so {REMEDY}")


def as_numpy(updates: Mapping[str, LowRank]) -> dict[str, Update]:
    """The thin matrices of PyTorch as arrays."""
    return {name: Update(each.down.numpy(), each.up.numpy()) for name, each in updates.items()}


def require(verification: Verification, name: str) -> None:
    """VerificationError where a limit was missed, with the adapter's name."""
    try:
        verification.require()
    except VerificationError as error:
        raise VerificationError(f"with the adapter {name} {error}") from error


class MeasuredAdapters:
    """Measures adapters against PyTorch: quality against the model's own numbers, faithfulness against the stored."""

    def __init__(self, adapters: list[NamedAdapter], checkpoint: Checkpoint, decoder: Decoder, folder: Path) -> None:
        self._adapters, self._checkpoint = adapters, checkpoint
        self._folder, self._opened = folder, Adapters(folder, decoder)
        self._computed_by_step = step_library(folder, decoder.graphs) is not None
        self._qualities: dict[str, AdapterQuality] = {}

    def measure(self, tokens: int, progress: Progress) -> None:
        """Compare each with float32 on so many tokens of text."""
        for adapter in self._adapters:
            progress(f"measuring the adapter {adapter.name}")
            with beside(self._checkpoint, adapter.files):
                decoder = self._opened.decoder(adapter.name)
                self._qualities[adapter.name] = adapter_quality(self._checkpoint, decoder, tokens, progress)

    def verified(self, options: ExportOptions, progress: Progress) -> tuple[AdapterReport, ...]:
        """The reports of all, once the checkpoint's model has the stored numbers.

        Raises:
            VerificationError: a decoder disagrees with PyTorch and PEFT.
        """
        reports, standard = [], None
        if self._adapters and self._computed_by_step:
            standard = Adapters(self._folder, Decoder(self._folder, options.threads, operators=False))
        for adapter in self._adapters:
            progress(f"comparing the adapter {adapter.name} with PyTorch and PEFT")
            with beside(self._checkpoint, adapter.files) as updates:
                verification = self._verify(self._opened, adapter.name, options)
                other = None if standard is None else self._verify(standard, adapter.name, options)
                rank = max(int(np.shape(each.down)[0]) for each in updates.values())
            path = self._folder / FOLDER / f"{adapter.name}{ENDING}"
            quality = self._qualities.get(adapter.name)
            size = path.stat().st_size
            reports.append(AdapterReport(adapter.name, adapter.source, rank, size, quality, verification, other))
        return tuple(reports)

    def _verify(self, adapters: Adapters, name: str, options: ExportOptions) -> Verification:
        verification = verify(self._checkpoint, adapters.decoder(name), options.weights, kv_int8=options.kv_int8)
        require(verification, name)
        return verification
