"""The check of a chat template before a stage trains with it.

TRL masks questions by the marks `{% generation %}` and `{% endgeneration %}` around answers. It can add them to the
templates of some models, and refuses all others.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from doge_model.errors import OptionError

SUFFIXES = (".jinja", ".j2")  # of a chat_template_path that TRL reads; any other names a tokenizer


def check_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that cannot write a conversation.

    Raises:
        OptionError: it has no chat template, or several and none of them is the default.
    """
    template = tokenizer.chat_template
    if template is None:
        raise OptionError(f"the tokenizer of {name} has no chat template; give one that has")
    if isinstance(template, dict) and "default" not in template:
        raise OptionError(f"the chat templates of {name} are {', '.join(sorted(template))}; one must be named default")


def check_training_template(
    tokenizer: PreTrainedTokenizerBase, name: str, path: str | None, assistant_only_loss: bool
) -> None:
    """Refuse a template, of the tokenizer or from a file, that does not tell answers from questions.

    Raises:
        OptionError: the file is missing, there is no template, or its answers are not marked although only they count.
    """
    if path is not None and not path.endswith(SUFFIXES):
        return  # TRL takes the template of another tokenizer, and checks it
    if path is not None:
        if not Path(path).is_file():
            raise OptionError(
                f"chat_template_path is {path}; it must be a file that exists, or the name of a tokenizer"
            )
        tokenizer.chat_template, name = Path(path).read_text(encoding="utf-8"), path
    elif tokenizer.chat_template is None:
        raise OptionError(f"the tokenizer of {name} has no chat template; give one as chat_template_path")
    check_template(tokenizer, name)
    if assistant_only_loss and marked_template(tokenizer) is None:
        raise OptionError(
            f"the chat template of {name} does not mark answers with {{% generation %}}; give one that does as "
            "chat_template_path, or learn questions too with assistant_only_loss false"
        )


def marked_template(tokenizer: PreTrainedTokenizerBase) -> str | dict[str, str] | None:
    """The template with marks around answers; None where it has none and TRL cannot add them."""
    template: str | dict[str, str] = tokenizer.chat_template
    if has_generation_markers(template):
        return template
    try:
        marked: str = get_training_chat_template(tokenizer)
    except ValueError:
        return None
    return marked
