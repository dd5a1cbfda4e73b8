"""The tokenizer of an exported folder: `tokenizer.json`, with the names of its special tokens and its chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doge_common.errors import one_line

from ..errors import OptionError, PackageError
from .clean_up import clean_up
from .generation_options import read_json_object
from .token_bytes import bytes_of_token, decoder_kinds, has_token_bytes

if TYPE_CHECKING:
    import tokenizers

# The names under which transformers hands special tokens to a chat template.
SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LONG_TEXT = 10_000  # characters, which take some 10 ms
SPACES = ("\u2581", "\u0120")  # as SentencePiece and GPT-2 write a space
FOR_BPE = "_for_bpe_even_though_it_will_corrupt_output"  # the end of a field that asks for cleaning all the same


class Tokenizer:
    """Text to token ids and back, as transformers does it with the same files.

    Attributes:
        special_tokens: texts by name, such as `eos_token`.
        chat_templates: Jinja sources by name; `default` is the one of `chat`.
        clean_up_tokenization_spaces: whether decoded text loses its spaces before punctuation.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, str] | None = None,
        clean_up_tokenization_spaces: bool = False,
    ) -> None:
        """See the attributes of the class."""
        # A file may have stored the padding and truncation of its training; neither has a place at generation.
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._special_ids = {token.content: token_id for token_id, token in added.items() if token.special}
        self._silent_ids = frozenset(self._special_ids.values())
        byte_ids = (backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        self._byte_ids = frozenset(token_id for token_id in byte_ids if token_id is not None)
        self._decoder_kinds = decoder_kinds(backend)
        self.special_tokens = dict(special_tokens or {})
        self.chat_templates = dict(chat_templates or {})
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer | None:
        """The tokenizer of `folder`, None where there is no `tokenizer.json`; PackageError for a damaged file."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            return None
        import tokenizers  # noqa: PLC0415 - whoever feeds token ids needs none

        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the tokenizers library raises bare Exception for every fault of the file
            raise PackageError(f"{path} is not a tokenizer ({one_line(error)}); export the model again") from error
        config_path = folder / "tokenizer_config.json"
        config = read_json_object(config_path) if config_path.is_file() else {}
        map_path = folder / "special_tokens_map.json"
        names = read_json_object(map_path) if map_path.is_file() else {}
        return cls(
            backend, _special_tokens({**names, **config}), _chat_templates(folder, config), _cleans_up(backend, config)
        )

    def __len__(self) -> int:
        """As `vocab_size`."""
        return self.vocab_size

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; `add_special_tokens` puts those around it that the tokenizer's file asks for."""
        if len(checked_text(text)) > LONG_TEXT:
            # a batch of one has the same ids; only for batches does the library let Python's other threads run
            ids: list[int] = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
        else:
            ids = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_as_text(self, text: str) -> list[int]:
        """Token ids of `text` read as plain text, none of it as a special or added token."""
        return [token.id for word in self._words(text) for token in self._backend.model.tokenize(word)]

    def encode_inside(self, text: str) -> list[int]:
        """Token ids of `text` in the middle of another: as plain text, and without a space put before it."""
        words = self._words(text)
        if (
            words
            and words[0].startswith(SPACES)
            and bytes_of_token("".join(words), self._decoder_kinds) != text.encode()
        ):
            words[0] = words[0][1:]
        return [token.id for word in words for token in self._backend.model.tokenize(word)]

    def _words(self, text: str) -> list[str]:
        """The pieces of a text that the tokenizer cuts into tokens one by one."""
        backend = self._backend
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        return [text] if backend.pre_tokenizer is None else [w for w, _ in backend.pre_tokenizer.pre_tokenize_str(text)]

    def decode(
        self,
        token_ids: Sequence[int],
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of `token_ids`; an incomplete character becomes U+FFFD.

        clean_up_tokenization_spaces: None does as the folder asks.
        """
        text: str = self._backend.decode([int(token_id) for token_id in token_ids], skip_special_tokens)
        cleans_up = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces is not None:
            cleans_up = clean_up_tokenization_spaces
        return clean_up(text) if cleans_up else text

    @property
    def has_token_bytes(self) -> bool:
        """Whether every token adds the same bytes to any text, as byte-level and SentencePiece's tokenizers have it."""
        return has_token_bytes(self._decoder_kinds)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text where `has_token_bytes`; of a special token those of its name.

        Empty for an id that the tokenizer does not know.
        """
        token = self._backend.id_to_token(token_id)
        return b"" if token is None else bytes_of_token(token, self._decoder_kinds)

    @property
    def shows_space_at_start(self) -> bool:
        """Whether the text of a token that begins with a space, at the start, begins with it too."""
        ids = self.encode_inside(" a")
        return not ids or self.decode(ids, clean_up_tokenization_spaces=False).startswith(" ")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        size: int = self._backend.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def vocab(self) -> dict[str, int]:
        """The id of every token as the tokenizer's file writes it."""
        ids: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return ids

    @property
    def special_texts(self) -> list[str]:
        """The special tokens as they are written."""
        return list(self._special_ids)

    def special_id(self, text: str) -> int | None:
        """The id of the special token written `text`, None when there is none."""
        return self._special_ids.get(text)

    def is_silent(self, token_id: int) -> bool:
        """Whether the token never shows in the text: a special token, or one the tokenizer does not know."""
        return token_id in self._silent_ids or self._backend.id_to_token(token_id) is None

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is a single byte, such as `<0x0A>`, that is decoded together with its neighbours."""
        return token_id in self._byte_ids


def check_same_tokens(folder: object, tokenizer: Tokenizer | None, other: object, theirs: Tokenizer | None) -> None:
    """OptionError where the tokens of two folders are not the same, so that one cannot guess for the other."""
    if tokenizer is None or theirs is None:
        missing = folder if tokenizer is None else other
        raise OptionError(f"{missing} has no tokenizer; a model and its assistant must have the same one")
    mine, others = tokenizer.vocab, theirs.vocab
    if mine != others:
        differing = min(mine.items() ^ others.items(), key=lambda pair: (pair[1], pair[0]))
        raise OptionError(
            f"{other} has another tokenizer than {folder}: {differing[0]!r} is not token {differing[1]} of both; give "
            "an assistant with the same tokenizer"
        )


def checked_text(text: object) -> str:
    """The text; OptionError when it is none, or holds half a character (a lone surrogate), which no tokenizer takes."""
    if not isinstance(text, str):
        raise OptionError(f"the text is {text!r}; it must be a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        lone = text[error.start]
        raise OptionError(f"the text holds {lone!r}, half a character; give valid Unicode, such as UTF-8") from error
    return text


def _cleans_up(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> bool:
    """Whether transformers would clean decoded text: by default never that of BPE, which writes its own spaces."""
    from tokenizers.models import BPE  # noqa: PLC0415 - as above

    is_bpe = isinstance(backend.model, BPE)
    name = "clean_up_tokenization_spaces"
    return bool(config.get(name)) and (not is_bpe or bool(config.get(name + FOR_BPE)))


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the named special tokens; an entry is the text itself or an object with it under `content`."""
    contents = {
        name: entry.get("content") if isinstance(entry, dict) else entry
        for name, entry in config.items()
        if name in SPECIAL_TOKEN_NAMES
    }
    return {name: content for name, content in contents.items() if isinstance(content, str)}


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name; as in transformers, files come before the entry of the configuration."""
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    if files:
        return {name: _read_template(path) for name, path in files.items()}
    entry = config.get("chat_template")
    if entry is None:
        return {}
    if isinstance(entry, str):
        return {"default": entry}
    try:
        return {str(named["name"]): str(named["template"]) for named in entry}
    except (TypeError, KeyError) as error:
        raise PackageError(
            f"{folder / 'tokenizer_config.json'}: chat_template is a {type(entry).__name__}; it must be a string, or a "
            "list of objects with a name and a template"
        ) from error


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} is not UTF-8 text ({one_line(error)}); export the model again") from error
