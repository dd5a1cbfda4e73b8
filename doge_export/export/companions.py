"""The files beside the decoder: the configurations, and the tokenizer with its chat template."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doge_common.errors import one_line
from doge_model.saving import exported_config, write_config

from ..errors import CheckpointError, PackageError
from ..runtime.chat_prompt import ChatPrompt
from ..runtime.chat_template import ChatTemplate
from ..runtime.generation_options import GenerationDefaults
from ..runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from doge_model import Checkpoint
    from doge_model.checkpoint import AnyCheckpoint
    from doge_model.classification import AnyDoge

# With these transformers.js finds the files. Its dtype stands for the ending of a file's name, fp32 for none, and a
# browser's default is another (src/utils/dtypes.js of 4.3.2). It downloads the data file only if it is told to.
TRANSFORMERS_JS = {"dtype": "fp32", "use_external_data_format": True}


def write_model_config(model: AnyDoge, folder: Path, **fields: Any) -> None:
    """Write config.json, with a field for transformers.js that transformers keeps and does not read.

    fields: further ones, which transformers would leave out.
    """
    write_config(exported_config(model.config, model.state_dict()), folder)
    path = folder / "config.json"
    fields |= json.loads(path.read_text(encoding="utf-8")) | {"transformers.js_config": TRANSFORMERS_JS}
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the files beside the decoder, then read them as the runtime will.

    Raises:
        CheckpointError: the runtime would refuse them.
    """
    check_special_ids(checkpoint)
    if checkpoint.tokenizer is not None:
        write_tokenizer(checkpoint, folder)
    try:
        add_turn_ends(checkpoint.generation_config, folder)
        # save_pretrained would refuse settings that transformers only warns of, such as a temperature without do_sample
        checkpoint.generation_config.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])
        with warnings.catch_warnings(record=True) as unused:
            warnings.simplefilter("always")
            GenerationDefaults.from_folder(folder)
    except PackageError as error:
        reason = one_line(error).replace(f"{folder}/", "")
        raise CheckpointError(f"an export of {checkpoint.source} would not load: {reason}") from error
    for each in unused:  # they name the folder, which is not in its place yet
        warnings.warn(str(each.message).replace(str(folder), checkpoint.source), stacklevel=2)


def write_tokenizer(checkpoint: AnyCheckpoint, folder: Path) -> None:
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


def check_special_ids(checkpoint: Checkpoint) -> None:
    """Refuse ends and fillers that the model has no token for; a negative filler, which stands for none, is left out.

    Raises:
        CheckpointError: there is such an id.
    """
    generation, rows = checkpoint.generation_config, checkpoint.model.config.vocab_size
    if isinstance(generation.pad_token_id, int) and generation.pad_token_id < 0:
        generation.pad_token_id = None
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "forced_eos_token_id"):
        value = vars(generation).get(name)
        for token_id in value if isinstance(value, list) else [value]:
            if isinstance(token_id, int) and token_id >= rows:
                raise CheckpointError(
                    f"{name} of {checkpoint.source} is {token_id}; it must be from 0 to {rows - 1}, the model's tokens"
                )


def add_turn_ends(generation: GenerationConfig, folder: Path) -> None:
    """Add the ends of a chat's turn, which our runtime takes from the template, for the runtimes that read only files.

    Raises:
        PackageError: the tokenizer's files or the template are refused.
    """
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer is None or "default" not in tokenizer.chat_templates:
        return
    prompt = ChatPrompt(ChatTemplate(tokenizer.chat_templates["default"], tokenizer.special_tokens), tokenizer)
    ends = generation.eos_token_id
    known = [] if ends is None else ends if isinstance(ends, list) else [ends]
    eos = tokenizer.special_id(tokenizer.special_tokens.get("eos_token", ""))
    new = [end for end in dict.fromkeys((prompt.turn_end, eos)) if end is not None and end not in known]
    if new:
        generation.eos_token_id = [*known, *new]
