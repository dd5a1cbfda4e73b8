"""The tokenizer of a GGUF file, built to give the tokens that llama.cpp gives (src/llama-vocab.cpp).

transformers has `integrations.gguf.convert_gguf_tokenizer`, tried in version 5.23.0 and not used, for these reasons:

- A `tokenizer.ggml.pre` that it does not know is cut as GPT-2 cuts, without a word. It knows neither smollm, default,
  falcon nor deepseek-coder. In the GGUF of SmolLM2, `calibration.txt` becomes 74,774 tokens with it. With the
  pre-tokenizer that SmolLM2 publishes it becomes 74,768, and the same ones here.
- It puts a space before a text although `tokenizer.ggml.add_space_prefix` is false, and takes one off a text that
  begins with two.
- It is internal to transformers, which may move it.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from doge_common.errors import CheckpointError, one_line

if TYPE_CHECKING:
    from .gguf import GgufFile

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # values of tokenizer.ggml.token_type


class PreTokenizer(NamedTuple):
    """A way to cut text into pieces before byte pairs are merged.

    Attributes:
        names: the values of tokenizer.ggml.pre that mean it, separated by spaces.
        splits: patterns that cut the text one after the other; each match becomes a piece.
        gpt2: whether the pieces are then cut as GPT-2 cuts text.
        ignore_merges: whether a piece that is a token is taken as it is, without merges.
        adds_bos: whether a text begins with bos, unless tokenizer.ggml.add_bos_token says otherwise.
    """

    names: str
    splits: tuple[str, ...]
    gpt2: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = _WORDS + r"\p{N}{1,3}" + _REST, _WORDS + r"\p{N}" + _REST
_BEFORE, _UPPER, _LOWER = r"[^\r\n\p{L}\p{N}]?", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}" + _REST.replace(r"[\r\n]*", r"[\r\n/]*")

PRE_TOKENIZERS = (
    PreTokenizer("gpt-2 phi-2 mpt olmo jais exaone4 trillion granite-docling", (), gpt2=True),
    PreTokenizer("smollm starcoder refact command-r codeshell exaone minerva-7b", (r"\p{N}",), gpt2=True),
    PreTokenizer("default", (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    PreTokenizer("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    PreTokenizer(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0", (_LLAMA3,), ignore_merges=True, adds_bos=True
    ),
    PreTokenizer("dbrx smaug-bpe chatglm-bpe glm4", (_LLAMA3,)),
    PreTokenizer("qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan", (_QWEN2,)),
    PreTokenizer("tekken", (_TEKKEN,), ignore_merges=True, adds_bos=True),
    PreTokenizer("deepseek-coder", ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
)


def gguf_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast | None:
    """The tokenizer with its chat template; None if the file has none.

    Raises:
        CheckpointError: the tokenizer is damaged or of a kind that is not supported.
    """
    kind = file.field("tokenizer.ggml.model")
    if file.field("tokenizer.ggml.tokens") is None:
        return None
    if kind not in ("gpt2", "llama"):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.model is {kind!r}; it must be 'gpt2' or 'llama'")
    tokens = vocabulary(file)
    special = special_tokens(file, tokens)
    pre = pre_tokenizer(file) if kind == "gpt2" else None
    try:
        backend = (
            sentencepiece(file, tokens, special.get("unk_token")) if pre is None else byte_level(file, tokens, pre)
        )
        add_tokens(backend, tokens, file.field("tokenizer.ggml.token_type", [1] * len(tokens)))
        backend.post_processor = post_processor(file, backend, special, pre is None or pre.adds_bos)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises a bare one, for merges of unknown tokens
        reason = one_line(error)
        raise CheckpointError(f"{file.path}: the tokenizer is damaged: {type(error).__name__} {reason}") from error
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
    tokenizer.chat_template = file.text("tokenizer.chat_template")
    return tokenizer


def vocabulary(file: GgufFile) -> list[str]:
    """The tokens in the order of their ids.

    Raises:
        CheckpointError: one is no string or stands twice, or the embedding has fewer rows.
    """
    tokens = file.field("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.tokens is of another kind; it must be a list of strings")
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    twice = next((left for left, right in pairwise(sorted(tokens)) if left == right), None)
    if twice is not None:
        raise CheckpointError(f"{file.path}: tokenizer.ggml.tokens has {twice!r} twice; each must stand once")
    rows = file.shape("model.embed_tokens.weight")[0]
    if len(tokens) > rows:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.tokens has {len(tokens)} tokens; it must have at most {rows}, "
            "the rows of token_embd.weight"
        )
    return tokens


def special_tokens(file: GgufFile, tokens: list[str]) -> dict[str, str]:
    """The tokens that begin, end and pad a text, and that for unknown text, by transformers' names.

    Raises:
        CheckpointError: there is no token of such an id.
    """
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {ours: file.token_id(theirs) for ours, theirs in names.items()}
    return {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None}


def byte_level(file: GgufFile, tokens: list[str], pre: PreTokenizer) -> Tokenizer:
    """A tokenizer of GPT-2's kind: bytes written as characters, merged in the order of the file's merges."""
    cuts = [merge.find(" ", 1) for merge in file.field("tokenizer.ggml.merges")]
    merges = [
        (merge[:at], merge[at + 1 :]) for merge, at in zip(file.field("tokenizer.ggml.merges"), cuts, strict=True)
    ]
    ids = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(ids, merges, ignore_merges=pre.ignore_merges))
    backend.pre_tokenizer = backend_pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    return backend


def pre_tokenizer(file: GgufFile) -> PreTokenizer:
    """The pre-tokenizer that `tokenizer.ggml.pre` names.

    Raises:
        CheckpointError: the name is unknown; a guess would give other tokens than in training.
    """
    name = file.field("tokenizer.ggml.pre")
    if name is None:
        warnings.warn(
            f"{file.path} has no tokenizer.ggml.pre; text may become other tokens than in training", stacklevel=2
        )
        name = "default"
    for pre in PRE_TOKENIZERS:
        if name in pre.names.split():
            return pre
    known = ", ".join(pre.names.replace(" ", ", ") for pre in PRE_TOKENIZERS)
    raise CheckpointError(f"{file.path}: tokenizer.ggml.pre is {name!r}; it must be one of {known}")


def backend_pre_tokenizer(pre: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer in the tokenizers library."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre.gpt2)
    if not pre.splits:
        return byte_level
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.splits]
    return pre_tokenizers.Sequence([*splits, byte_level])


def sentencepiece(file: GgufFile, tokens: list[str], unknown: str | None) -> Tokenizer:
    """A tokenizer of Sentencepiece's kind: a space is U+2581, and neighbours that make the best token merge first."""
    scores = dict(zip(tokens, file.field("tokenizer.ggml.scores"), strict=True))
    merges = [
        (scores[token], len(token[:at]), len(token[at:]), token[:at], token[at:])
        for token in tokens
        for at in range(1, len(token))
        if token[:at] in scores and token[at:] in scores
    ]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    ids = {token: index for index, token in enumerate(tokens)}
    pairs = [(left, right) for *_, left, right in merges]
    backend = Tokenizer(models.BPE(ids, pairs, byte_fallback=True, fuse_unk=True, unk_token=unknown))
    space = normalizers.Replace(" ", "\u2581")
    spaces = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    # llama.cpp puts a space before every piece of text, also after a special token; decoding takes it off again.
    prefixed = file.flag("tokenizer.ggml.add_space_prefix", True)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space]) if prefixed else space
    backend.decoder = decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)] if prefixed else spaces)
    return backend


def add_tokens(backend: Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    """Mark the tokens that are matched in a text as a whole."""
    pairs = list(zip(tokens, kinds, strict=True))
    whole = {"normalized": False}
    backend.add_special_tokens(
        [AddedToken(t, special=True, **whole) for t, kind in pairs if kind in (UNKNOWN, CONTROL)]
    )
    backend.add_tokens([AddedToken(t, special=False, **whole) for t, kind in pairs if kind == USER_DEFINED])


def post_processor(
    file: GgufFile, backend: Tokenizer, special: dict[str, str], adds_bos: bool
) -> processors.PostProcessor:
    """The tokens that the file puts before and after every text."""
    begins = file.flag("tokenizer.ggml.add_bos_token", adds_bos) and "bos_token" in special
    ends = file.flag("tokenizer.ggml.add_eos_token", False) and "eos_token" in special
    around = [special["bos_token"]] if begins else [], [special["eos_token"]] if ends else []
    ids = [(token, backend.token_to_id(token)) for token in {*around[0], *around[1]}]
    return processors.TemplateProcessing(single=[*around[0], "$A", *around[1]], special_tokens=ids)
