"""A folder of links, as the hub's cache has it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from doge_export.runtime.decoder import Decoder
from tests.helpers.models import exported, random_ids, tiny_model


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_folder_of_links_into_another_one_runs_as_the_files_do(tmp_path: Path) -> None:
    decoder = exported(tiny_model(keep_window_size=8), tmp_path / "blobs", "int8")
    links = tmp_path / "snapshot" / "onnx"
    links.mkdir(parents=True)
    for file in (tmp_path / "blobs" / "onnx").iterdir():
        (links / file.name).symlink_to(file)
    linked, ids = Decoder(tmp_path / "snapshot", threads=1), random_ids(20)
    found = [each.forward(each.new_state(), ids, "all") for each in (decoder, linked)]
    np.testing.assert_array_equal(found[0], found[1])
