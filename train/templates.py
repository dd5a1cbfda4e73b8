"""The check of a chat template before a stage trains with it, and the marks that it lacks.

TRL masks questions by the marks `{% generation %}` and `{% endgeneration %}` around answers. It adds them to the
templates of some models, and refuses all others. Here they are added to every template that writes its turns as ChatML
does, in one expression or in several side by side. Checked is that the text stays the same, and that the end of an
answer is learned.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from doge_common.errors import OptionError

Template = str | dict[str, str]  # one template, or several by name

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
) -> Template | None:
    """Give the tokenizer a template that tells answers from questions; return the one to save, None if TRL takes it.

    Raises:
        OptionError: the file is missing, there is no template, or its answers are not marked although only they count.
    """
    if path is not None and not path.endswith(SUFFIXES):
        return None  # TRL takes the template of another tokenizer, and checks it
    if path is not None:
        if not Path(path).is_file():
            raise OptionError(
                f"chat_template_path is {path}; it must be a file that exists, or the name of a tokenizer"
            )
        tokenizer.chat_template, name = Path(path).read_text(encoding="utf-8"), path
    elif tokenizer.chat_template is None:
        raise OptionError(f"the tokenizer of {name} has no chat template; give one as chat_template_path")
    check_template(tokenizer, name)
    original: Template = tokenizer.chat_template
    if assistant_only_loss:
        marked = marked_template(tokenizer)
        if marked is None:
            raise OptionError(
                f"the chat template of {name} does not mark answers with {{% generation %}}; give one that does as "
                "--chat_template_path FILE.jinja, or learn questions too with --assistant_only_loss false"
            )
        tokenizer.chat_template = marked
    return original


def marked_template(tokenizer: PreTrainedTokenizerBase) -> Template | None:
    """The template with marks around answers; None where it has none, and they cannot be added."""
    template: Template = tokenizer.chat_template
    if has_generation_markers(template):
        return template
    try:
        known: str = get_training_chat_template(tokenizer)
    except ValueError:
        return mark_chatml(tokenizer)
    return known


# An expression and the text behind it in its line.
EXPRESSION = re.compile(r"\{\{(-?)(.*?)(-?)\}\}([^\n{]*)", re.DOTALL)
# Between two expressions that write their texts without a gap.
SIDE_BY_SIDE = re.compile(r"-?\}\}\{\{-?|-\}\}\s*\{\{-?|\}\}\s*\{\{-")
# The terms of a sum: strings, or anything else without quotes; and the one that is the content of a turn.
TERM = re.compile(r"""'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"|(?:[^'"+\[]|\[['"]\w+['"]\])+""")
CONTENT = re.compile(r"""(?P<turn>\w+)(?:\.content|\[['"]content['"]\])(?:\s*\|\s*trim)?""")
QUESTION = {"role": "user", "content": "  What is 2 + 2?\n"}
ANSWER = {"role": "assistant", "content": "\n4, 'of' \"course\".  "}
START, END = "\x02", "\x03"  # in the place of marks, where a text has to show them
PROBES = (
    [QUESTION],
    [QUESTION, ANSWER],
    [{"role": "system", "content": " Be brief. "}, QUESTION, ANSWER, QUESTION],
    [QUESTION, ANSWER, QUESTION, ANSWER],
)


def mark_chatml(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The default template with marks, where it writes turns as ChatML does; None where the text would not stay."""
    template = tokenizer.chat_template
    default: str = template["default"] if isinstance(template, dict) else template
    candidates = (EXPRESSION.sub(mark_turn, text) for text in (default, SIDE_BY_SIDE.sub(" + ", default)))
    return next((marked for marked in candidates if is_marked_copy(tokenizer, marked, default)), None)


def is_marked_copy(tokenizer: PreTrainedTokenizerBase, marked: str, default: str) -> bool:
    """Whether a template writes the texts of another one, and has marks around each answer and its end."""
    if any(rendered(tokenizer, marked, probe) != rendered(tokenizer, default, probe) for probe in PROBES):
        return False
    shown = marked.replace("{% generation %}", START).replace("{% endgeneration %}", END)
    answers = re.findall(f"{START}(.*?){END}", rendered(tokenizer, shown, PROBES[-1])[0], re.DOTALL)
    out = tokenizer.apply_chat_template(
        [QUESTION, ANSWER], chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    has_ends = len(answers) == 2 and all(answer.strip() != ANSWER["content"].strip() for answer in answers)
    return has_ends and any(out["assistant_masks"])


def mark_turn(found: re.Match[str]) -> str:
    """An expression that writes the content of a turn of any role, with marks for an answer; any other as it is.

    The end of the turn, up to its line break, is learned as well: by it an answer ends.
    """
    left, body, right, after = found.groups()
    terms = [term.strip() for term in TERM.findall(body) if term.strip()]
    at, content = next(
        ((index, hit) for index, term in enumerate(terms) if (hit := CONTENT.fullmatch(term))), (0, None)
    )
    if content is None:
        return found[0]
    start, answer, rest = " + ".join(terms[:at]), terms[at], ""
    if tail := terms[at + 1 :]:
        quote, (end, more) = tail[0][0], re.split(r"(?=\\n|\n|$)", tail[0][1:-1], maxsplit=1)
        answer = f"{{{{ {answer} + {quote}{end}{quote} }}}}"
        rest = f"{{{{ {' + '.join([f'{quote}{more}{quote}', *tail[1:]])} }}}}"
    else:
        answer, after = f"{{{{ {answer} }}}}{after}", ""
    before = f"{{{{ {start} }}}}" if start else ""
    turn = found[0].removesuffix(after)
    # the empty strings around it keep the white space that Jinja would cut at a block
    return (
        f"{{{{{left} '' }}}}{{% if {content['turn']}['role'] == 'assistant' %}}{before}{{% generation %}}{answer}"
        f"{{% endgeneration %}}{rest}{{% else %}}{turn}{{% endif %}}{{{{ '' {right}}}}}{after}"
    )


def rendered(tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, str]]) -> list[str]:
    """The text of a conversation without and with the start of an answer; a refusal of the template is its text."""
    try:
        return [
            tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=is_asked
            )
            for is_asked in (False, True)
        ]
    except jinja2.TemplateError as error:
        return [str(error)]
