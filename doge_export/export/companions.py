"""The files beside the decoder: the configurations, and the tokenizer with its chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from doge_model.errors import one_line
from doge_model.saving import exported_config, write_config

from ..errors import CheckpointError, PackageError
from ..runtime.chat_template import ChatTemplate
from ..runtime.generation_options import GenerationDefaults
from ..runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from doge_model import Checkpoint, DogeForCausalLM

# With these transformers.js finds the files. Its dtype stands for the ending of a file's name, fp32 for none, and a
# browser's default is another (src/utils/dtypes.js of 4.3.2). It downloads the data file only if it is told to.
TRANSFORMERS_JS = {"dtype": "fp32", "use_external_data_format": True}


def write_model_config(model: DogeForCausalLM, folder: Path) -> None:
    """Write config.json, with a field for transformers.js that transformers keeps and does not read."""
    write_config(exported_config(model.config, model.state_dict()), folder)
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | {"transformers.js_config": TRANSFORMERS_JS}
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the files beside the decoder, then read them as the runtime will.

    Raises:
        CheckpointError: the runtime would refuse them.
    """
    # save_pretrained would refuse settings that transformers only warns of, such as a temperature without do_sample
    checkpoint.generation_config.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])
    if checkpoint.tokenizer is not None:
        write_tokenizer(checkpoint, folder)
    try:
        read_companions(folder)
    except PackageError as error:
        reason = one_line(error).replace(f"{folder}/", "")
        raise CheckpointError(f"an export of {checkpoint.source} would not load: {reason}") from error


def write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template.

    The template stands in a file of its own, which is read first, and in tokenizer_config.json too. transformers.js
    reads it from nowhere else (src/utils/model_registry/get_tokenizer_files.js of 4.3.2).
    """
    assert checkpoint.tokenizer is not None
    checkpoint.tokenizer.save_pretrained(folder)
    checkpoint.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)  # half the size
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    # transformers 5 writes a class name that onnxruntime-genai and transformers 4 do not know; this one all of them do
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["padding_side"] = "left"  # a decoder goes on behind its rows; transformers' pipeline would pad them there
    template = checkpoint.tokenizer.chat_template
    if isinstance(template, dict):
        settings["chat_template"] = [{"name": name, "template": text} for name, text in template.items()]
    elif template:
        settings["chat_template"] = template
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_companions(folder: Path) -> None:
    """Read the files beside the decoder as `doge_export.load` and `chat` do.

    Raises:
        PackageError: one of them is refused.
    """
    GenerationDefaults.from_folder(folder)
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer is not None and "default" in tokenizer.chat_templates:
        ChatTemplate(tokenizer.chat_templates["default"], tokenizer.special_tokens)
