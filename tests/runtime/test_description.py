"""Metadata of a decoder file that cannot be read ends in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doge_export.errors import PackageError
from doge_export.runtime.description import METADATA_KEY, DecoderDescription


@pytest.mark.parametrize("text", ["{", "[1]", "7", "null"])
def test_damaged_metadata_is_a_damaged_package(text: str) -> None:
    with pytest.raises(PackageError, match=r"^model\.onnx has damaged metadata \(.*\); export the checkpoint again$"):
        DecoderDescription.from_metadata({METADATA_KEY: text}, Path("model.onnx"))


@pytest.mark.parametrize("values", [{}, {"cache_type": ["int8"]}, {"format_version": 6, "cache_type": "float64"}])
def test_another_format_is_named_with_the_formats_of_this_version(values: Any) -> None:
    with pytest.raises(PackageError, match=r"with other fields than this version's formats .*; export the checkpoint"):
        DecoderDescription.from_metadata({METADATA_KEY: json.dumps(values)}, Path("model.onnx"))


def test_a_file_of_another_program_is_refused() -> None:
    with pytest.raises(PackageError, match=r"has no 'doge_export\.decoder' in its metadata; give a decoder that doge"):
        DecoderDescription.from_metadata({}, Path("model.onnx"))
