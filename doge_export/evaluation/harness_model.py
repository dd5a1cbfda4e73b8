"""An exported folder as a model of EleutherAI's lm-evaluation-harness.

It is registered with the harness, so the harness's own functions take it too:

    import lm_eval, doge_export.evaluation.harness_model
    lm_eval.simple_evaluate("doge-export", {"pretrained": "smollm2-135m-int8"}, tasks=["piqa"])

Requests are sorted by their tokens and fed to one state. For each one the state goes back to the last token that it
shares with the request before. So few-shot examples, system messages and the question of several choices are computed
once. The numbers are those of computing every request by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from ..errors import EvaluationError, PackageError
from ..runtime.generation_options import GenerationOptions
from ..runtime.loading import load
from ..runtime.model import Model
from ..runtime.prefix import SharedPrefix
from .options import MAX_GEN_TOKS
from .perplexity import DecoderScorer, token_log_probs

PIECE = 64  # rows of logits that are compared together

# (context and continuation as texts, token ids of the context, token ids of the continuation)
TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]


@register_model("doge-export")
class DogeLM(TemplateLM):
    """The runtime with the harness's interface. It answers one request at a time and computes a shared prefix once."""

    def __init__(
        self,
        pretrained: str | Model,
        threads: int | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Take an exported folder, or a loaded model.

        Args:
            pretrained: the folder or the model.
            threads: of the computation, where a folder is loaded.
            batch_size, max_batch_size, device: given by the harness; a decoder on a CPU ignores them.

        Raises:
            PackageError: the folder is no export.
        """
        super().__init__()
        self.model = pretrained if isinstance(pretrained, Model) else load(pretrained, threads)
        self.text_tokenizer = self.model.tokenizer
        self.prefix = SharedPrefix(self.model.decoder)
        self.max_length = self.model.decoder.keep_window_size
        self.max_gen_toks = MAX_GEN_TOKS

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._special_id("eos_token")

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: the one that begins a text, or else the one that ends it."""
        return self._special_id("bos_token", "eos_token")

    @property
    def tokenizer_name(self) -> str:
        """Name of the folder, which the harness's cache of requests asks for."""
        return self.model.name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Source of the folder's template; None without one, or where `chat_template` is false."""
        return self.text_tokenizer.chat_templates.get("default") if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of some messages. Without generation prompt it ends with the content of the last message."""
        messages = [{"role": message["role"], "content": message["content"]} for message in chat_history]
        text = self.model.chat_template.render(messages, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = messages[-1]["content"]
        return text[: text.rindex(last) + len(last)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, with the tokenizer's own special tokens unless the text begins with bos_token already."""
        if add_special_tokens is None:
            bos = self.text_tokenizer.special_tokens.get("bos_token")
            add_special_tokens = not (bos and string.startswith(bos))
        return self.text_tokenizer.encode(string, add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Of each request: log-likelihood of its continuation in nats, and whether greedy decoding gives it."""
        results: dict[int, tuple[float, bool]] = {}
        for index in sorted(range(len(requests)), key=lambda index: requests[index][1:]):
            key, context, continuation = requests[index]
            results[index] = self._score(context, continuation)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, results[index])
        return [results[index] for index in range(len(requests))]

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        if not continuation:
            return 0.0, True
        if len(continuation) > self.max_length:
            raise EvaluationError(
                f"the length of a continuation is {len(continuation)} tokens; "
                f"it must be at most {self.max_length}, the tokens that the model sees at once"
            )
        # the last token is not fed, so one token more than the window fits; too long a context loses its beginning
        fed = (context + continuation)[-(self.max_length + 1) : -1]
        rows = self.prefix.logits(fed, len(continuation))
        total, greedy = 0.0, True
        for start in range(0, len(rows), PIECE):
            logits = np.stack(rows[start : start + PIECE])
            wanted = np.array(continuation[start : start + PIECE])
            total += float(token_log_probs(logits, wanted).sum())
            greedy = greedy and bool((logits.argmax(-1) == wanted).all())
        return total, greedy

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood, in nats, of each request's whole text, in the harness's own windows."""
        scorer, results = DecoderScorer(self.model.decoder), []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            total = 0.0
            for context, continuation in map(utils.make_disjoint_window, windows):
                ids = np.array([*context, *continuation], np.int64)
                total += float(scorer.log_probs(ids, len(continuation)).sum())
            results.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The generated text after each context, up to a stop string or the end of text."""
        encoded = [self.tok_encode(request.args[0]) for request in requests]
        results: dict[int, str] = {}
        for index in sorted(range(len(requests)), key=lambda index: encoded[index]):
            results[index] = self._generate(encoded[index], requests[index].args[1])
            self.cache_hook.add_partial("generate_until", requests[index].args, results[index])
        return [results[index] for index in range(len(requests))]

    def _generate(self, context: list[int], gen_kwargs: dict[str, Any]) -> str:
        options = generation_options(gen_kwargs, self.max_gen_toks)
        room = max(1, self.max_length - options.max_new_tokens)
        rest = self.prefix.before_last(context[-room:])
        return self.model.continue_state(self.prefix.state, rest, options).read_all().text

    def _special_id(self, *names: str) -> int:
        for name in names:
            text = self.text_tokenizer.special_tokens.get(name)
            token_id = None if text is None else self.text_tokenizer.special_id(text)
            if token_id is not None:
                return token_id
        raise PackageError(
            f"{' or '.join(names)} is missing in the tokenizer of {self.model.name!r}; add one to tokenizer_config.json"
        )


BEAMS = "num_beams"
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def generation_options(gen_kwargs: dict[str, Any], max_gen_toks: int, task: str = "the task") -> GenerationOptions:
    """The runtime's options for a task's generation settings.

    The folder's own settings are ignored, so that models can be compared.

    Args:
        gen_kwargs: settings of the task, as the harness writes them.
        max_gen_toks: new tokens where the task names no limit.
        task: its name, for the error.

    Raises:
        EvaluationError: the runtime does not have one of the settings.
    """
    given = normalize_gen_kwargs(gen_kwargs, max_gen_toks)
    known = ("until", "max_gen_toks", "do_sample", *SAMPLING)
    if given.get(BEAMS) == 1:  # no search
        del given[BEAMS]
    if unknown := set(given) - set(known):
        raise EvaluationError(
            f"generation_kwargs of {task} has {', '.join(sorted(unknown))}; it must hold only {', '.join(known)}"
        )
    sampling = {name: given[name] for name in SAMPLING if name in given}
    if not given["do_sample"]:
        sampling["temperature"] = 0.0
    stop = tuple(text for text in given["until"] if text)
    return GenerationOptions(max_new_tokens=given["max_gen_toks"], stop=stop, seed=0, **sampling)
