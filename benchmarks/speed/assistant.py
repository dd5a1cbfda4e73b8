"""How much faster are answers with an assistant, by the share of its guesses that are right?

    python -m benchmarks.speed.assistant smollm2-135m-int8
    python -m benchmarks.speed.assistant --large 320m --assistant 20m

The assistant's steps are real ones, of a random model of the family. Its logits are then replaced: by those of the
token that the answer has, with the probability of each share, else of another token. So the acceptance is simulated and
the time is not. Before that, checks of 1 to 8 tokens are timed, in single steps. Answers with and without the assistant
take turns; their tokens must be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import options
from benchmarks.common.decoders import random_decoder, random_ids
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export.runtime.assistant import Assistant
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DRAFT_TOKENS
from doge_export.runtime.model import Model
from doge_export.runtime.state import State

SURE = 50.0  # logit of the simulated guess; all others are 0


class SimulatedDecoder(Decoder):
    """Takes the steps of a decoder, and knows the answer with some probability.

    Attributes:
        sequence: the tokens of prompt and answer.
        share: the probability that a guess is right.
    """

    sequence: Sequence[int] = ()
    share = 1.0

    def __init__(self, decoder: Decoder, vocab_size: int) -> None:
        vars(self).update(vars(decoder))
        self._real_vocab, self.vocab_size = decoder.vocab_size, vocab_size
        self._rng = np.random.default_rng(0)

    def forward(
        self, state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        """Feed int64 [S]; the same logits [1, vocab] for one token to come."""
        super().forward(state, token_ids % self._real_vocab, logits_to_keep)
        logits = np.zeros((1, self.vocab_size), np.float32)
        right = self.sequence[state.position] if state.position < len(self.sequence) else 0
        wrong = (right + 1) % self.vocab_size
        logits[0, right if self._rng.random() < self.share else wrong] = SURE
        return logits


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--large", default="320m", show_default=True, help="Size of the family, where no FOLDER is given.")
@click.option("--assistant", "small", default="20m", show_default=True, help="Size of the family that guesses.")
@click.option("--shares", default="0.5,0.7,0.8,0.9", show_default=True, help="Of right guesses, by commas.")
@click.option("--new-tokens", type=click.IntRange(2), default=96, show_default=True)
@options.threads
@options.rounds(5)
@options.json_file
def main(
    folder: Path | None,
    large: str,
    small: str,
    shares: str,
    new_tokens: int,
    threads: int,
    rounds: int,
    out: Path | None,
) -> None:
    """Time checks and answers of the model in FOLDER, or of a random one."""
    announce()
    opened: AbstractContextManager[Decoder]
    opened = random_decoder(large, "int8", threads) if folder is None else nullcontext(Decoder(folder, threads))
    with opened as decoder, random_decoder(small, "int8", threads) as real:
        simulated = SimulatedDecoder(real, decoder.vocab_size)
        assistant = Assistant.beside(decoder, simulated)
        checks = check_costs(decoder, rounds * 4)
        click.echo(f"{decoder.kernels}; a check of 1 to 8 tokens, in steps: {' '.join(f'{c:.2f}' for c in checks)}")
        step = step_ratio(decoder, real, rounds * 4)
        click.echo(f"a step of the assistant: {step:.3f}, with its choice {assistant.costs.guess:.3f}")
        rows = [row(decoder, assistant, simulated, float(share), new_tokens, rounds) for share in shares.split(",")]
    figures = {"kernels": decoder.kernels, "threads": threads, "rounds": rounds, "large": str(folder or large)}
    finish(figures | {"small": small, "checks": checks, "assistant_step": step, "rows": rows}, out)


def check_costs(decoder: Decoder, rounds: int) -> list[float]:
    """The time of a check of 1 to 8 tokens, in single steps; medians of rounds."""
    state, ids = decoder.new_state(), random_ids(decoder.vocab_size, 100)
    decoder.forward(state, ids)
    calls = [partial(seconds, decoder.check_draft, state, ids[:count]) for count in range(1, DRAFT_TOKENS + 1)]
    times = in_turns([partial(seconds, one_step, decoder, state), *calls], rounds)
    return [median(times[:, count] / times[:, 0]) for count in range(1, DRAFT_TOKENS + 1)]


def step_ratio(decoder: Decoder, small: Decoder, rounds: int) -> float:
    """The time of a step of the assistant, in steps of the large model; the median of rounds."""
    calls = []
    for each in (small, decoder):
        state = each.new_state()
        each.forward(state, random_ids(each.vocab_size, 100))
        calls.append(partial(seconds, one_step, each, state))
    times = in_turns(calls, rounds)
    return median(times[:, 0] / times[:, 1])


def one_step(decoder: Decoder, state: State) -> None:
    """Feed a token and take it back."""
    decoder.forward(state, np.array([7]))
    state.truncate(state.position - 1)


def row(
    decoder: Decoder, assistant: Assistant, simulated: SimulatedDecoder, share: float, new_tokens: int, rounds: int
) -> dict[str, float]:
    """Answers in turns, without and with an assistant whose guesses are right in such a share."""
    alone, assisted = Model(decoder), Model(decoder, assistant=assistant)
    prompt = random_ids(decoder.vocab_size, 64).tolist()
    answer = alone.generate(prompt, max_new_tokens=new_tokens).token_ids
    simulated.sequence, simulated.share = [*prompt, *answer], share
    ratios, drafted, accepted = [], 0, 0
    for _ in range(rounds):
        plain, quick = (model.generate(prompt, max_new_tokens=new_tokens) for model in (alone, assisted))
        if quick.token_ids != plain.token_ids:
            raise SystemExit("the assistant changed the answer")
        ratios.append(quick.decode_tokens_per_s / plain.decode_tokens_per_s)
        drafted, accepted = drafted + quick.drafted_tokens, accepted + quick.accepted_tokens
    found = {"share": share, "ratio": median(ratios), "drafted": drafted / rounds, "accepted": accepted / rounds}
    click.echo(f"{share:.2f} right: {found['ratio']:.2f} times as fast")
    return found


if __name__ == "__main__":
    main()
