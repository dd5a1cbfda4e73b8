"""Whatever onnxruntime raises about a folder is one sentence of ours."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from doge_export.errors import PackageError
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DECODER_FILE, METADATA_KEY
from doge_export.runtime.model import Model
from doge_export.runtime.sessions import utf8_folder
from tests.helpers.fakes import byte_level_tokenizer
from tests.helpers.models import exported, random_ids, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    exported(tiny_model(), folder, "int8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_model_file_opens_and_runs_or_is_refused(seed: int, folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    draw, file = random.Random(seed), damaged / DECODER_FILE
    data = bytearray(file.read_bytes())
    for _ in range(3):
        data[draw.randrange(len(data))] = draw.randrange(256)
    file.write_bytes(data)
    try:
        decoder = Decoder(damaged, threads=1)
        decoder.forward(decoder.new_state(), random_ids(3) % decoder.vocab_size)
    except PackageError as error:
        assert "\n" not in str(error)


def test_a_graph_whose_metadata_promises_other_sizes_is_refused_when_it_runs(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "changed")
    for file in (changed / "onnx").glob("*.onnx"):
        model = onnx.load(file, load_external_data=False)
        entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        entry.value = entry.value.replace('"num_layers": 2', '"num_layers": 3')
        file.write_bytes(model.SerializeToString())
    decoder = Decoder(changed, threads=1)
    with pytest.raises(PackageError, match="onnxruntime cannot bind the decoder's inputs"):
        decoder.forward(decoder.new_state(), np.array([1]))


def test_a_tokenizer_with_tokens_that_the_model_does_not_have_is_named(folder: Path) -> None:
    model = Model(Decoder(folder, threads=1), byte_level_tokenizer(), name="small")
    with pytest.raises(PackageError, match=r"the tokenizer of 'small' gives token \d+, but the model has 97 tokens"):
        model.chat([{"role": "user", "content": "Grüße"}])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
def test_a_folder_whose_name_is_not_utf8_opens(folder: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(folder, odd)
    with utf8_folder(odd) as name:
        assert name.isascii()
    decoder = Decoder(odd, threads=1)
    decoder.forward(decoder.new_state(), random_ids(3))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such locale")
def test_a_folder_with_an_accent_opens_in_a_locale_without(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "café")
    code = "import doge_export, sys; print(len(doge_export.load(sys.argv[1]).generate([1, 2]).token_ids))"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "café")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "100"), done.stderr
