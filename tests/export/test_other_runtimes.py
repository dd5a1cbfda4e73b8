"""The files of an export that other runtimes and the hub read: genai_config.json and the model card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from doge_export.export import ExportOptions, export
from doge_export.export.genai_config import genai_config, sampling, special_tokens
from doge_export.graph import Dimensions
from tests.helpers.checkpoints import save_doge, save_tokenizer
from tests.helpers.models import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a checkpoint whose own card names a licence."""
    home = tmp_path_factory.mktemp("exports")
    (home / "tiny").mkdir()
    save_doge(home / "tiny", vocab_size=len(save_tokenizer(home / "tiny")))
    (home / "tiny" / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    return export(ExportOptions(str(home / "tiny"), home / "tiny-int8", report_tokens=32)).folder


def test_genai_is_told_where_the_window_ends_and_what_stands_in_the_graph(folder: Path) -> None:
    config = json.loads((folder / "genai_config.json").read_text())
    assert config["model"]["context_length"] == config["search"]["max_length"] == 64
    assert (folder / config["model"]["decoder"]["filename"]).is_file()
    dimensions = Dimensions.from_config(tiny_config(), has_mask=True)
    assert genai_config(dimensions, GenerationConfig())["model"]["decoder"]["head_size"] == dimensions.channels


def test_ends_are_a_list_and_an_absent_padding_token_is_the_first_of_them() -> None:
    found = special_tokens(GenerationConfig(eos_token_id=[7, 9], bos_token_id=3))
    assert found == {"bos_token_id": 3, "eos_token_id": [7, 9], "pad_token_id": 7}
    assert special_tokens(GenerationConfig()) == {"eos_token_id": [], "pad_token_id": 0}
    assert special_tokens(GenerationConfig(bos_token_id=3))["pad_token_id"] == 3


def test_sampling_has_genai_s_names_and_transformers_defaults() -> None:
    assert sampling(GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)) == {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 50,
        "top_p": 0.9,
    }


def test_the_card_is_one_that_the_hub_reads_with_the_licence_of_its_base(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.pipeline_tag, card.data.library_name) == (
        "mit",
        "text-generation",
        "onnxruntime",
    )
    report = json.loads((folder / "export_report.json").read_text())
    assert f"{report['quality']['perplexity']:.3f}" in card.text
    assert "at most 64 tokens" in card.text


def test_the_python_of_the_card_is_python(folder: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        compile(snippet, "README.md", "exec")


def test_transformers_js_is_told_the_file_and_transformers_reads_the_same_config(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    assert fields["transformers.js_config"] == {"dtype": "fp32", "use_external_data_format": True}
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.keep_window_size, config.num_key_value_heads) == ("doge", 64, 2)


def test_the_chat_template_stands_where_each_runtime_looks_for_it(folder: Path) -> None:
    written = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    assert (
        written == (folder / "chat_template.jinja").read_text() == AutoTokenizer.from_pretrained(folder).chat_template
    )
