"""Does a small model that was distilled for a large one on a CPU guess well enough to pay?

    doge-export smollm2-135m smollm2-135m-int8
    doge-generate smollm2-135m-int8 prompts.jsonl --output answers.jsonl --greedy --max-new-tokens 96
    python -m benchmarks.quality.draft_pair smollm2-135m answers.jsonl draft --minutes 45
    doge-export draft draft-int8
    doge-bench smollm2-135m-int8 --assistant draft-int8
    python -m benchmarks.quality.draft_pair smollm2-135m answers.jsonl draft --layers 0,1,29 --width 288 --steps 0

The student is cut from its teacher: some of its layers, and of a Llama those directions of the residual stream that
hold most. Each layer is fitted by least squares to stand for those that are left out behind it. Then TRL's
DistillationTrainer distils it. Its student would write the texts, and slowly here, so both read the teacher's own
greedy answers instead. An assistant guesses the same. The last answers are held out, and the share of their tokens that
the student puts first is printed before and after. The second form is the fit alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import click
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DistillationConfig, DistillationTrainer

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from doge_model import DogeConfig, DogeForCausalLM, load_checkpoint
from doge_model.saving import is_llama, llama_lacks

READERS = (  # norm of a layer -> readers of its output
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
)
WRITERS = ("self_attn.o_proj", "mlp.down_proj")
CALIBRATION = 100  # answers whose hidden states say which directions are kept, and fit the layers
RIDGE = 1e-2
EPS = 1e-6

Row = dict[str, Any]  # prompt: text or messages; completion_ids: the answer's tokens


@click.command()
@click.argument("teacher")
@click.argument("answers", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("student", type=click.Path(path_type=Path, file_okay=False))
@click.option("--layers", type=options.numbers, default="0,1,28,29", show_default=True, help="Of the teacher.")
@click.option("--width", type=click.IntRange(2), help="Of the residual stream, where TEACHER is a Llama.")
@click.option("--steps", type=click.IntRange(0), default=1000, show_default=True, help="0: the fit alone.")
@click.option("--minutes", type=click.FloatRange(min=0), default=45.0, show_default=True, help="An earlier end.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Answers a step.")
@click.option("--learning-rate", type=float, default=1e-3, show_default=True)
@click.option("--held-out", type=click.IntRange(1), default=40, show_default=True, help="Answers.")
@click.option("--seed", type=int, default=233, show_default=True)
@options.threads
@options.json_file
def main(
    teacher: str,
    answers: Path,
    student: Path,
    layers: tuple[int, ...],
    width: int | None,
    steps: int,
    minutes: float,
    batch: int,
    learning_rate: float,
    held_out: int,
    seed: int,
    threads: int,
    out: Path | None,
) -> None:
    """Distil a part of TEACHER for its ANSWERS, lines of doge-generate, into the folder STUDENT."""
    announce()
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(teacher)
    large, tokenizer = checkpoint.model, checkpoint.tokenizer
    assert tokenizer is not None
    if max(layers) >= large.config.num_hidden_layers:
        raise click.UsageError(
            f"--layers has {max(layers)}; {teacher} has {large.config.num_hidden_layers} layers, counted from 0"
        )
    rows = read_answers(answers, tokenizer)
    if len(rows) <= held_out:
        raise click.UsageError(f"--held-out is {held_out}; it must be below the {len(rows)} answers of {answers}")
    kept, rest = rows[:-held_out], rows[-held_out:]
    small = cut(large, layers, width, [sequence(row, tokenizer) for row in kept[:CALIBRATION]])
    figures = {"layers": layers, "width": width, "share_of_weights": weights(small) / weights(large)}
    before = agreement(small, rest, tokenizer)
    click.echo(f"{len(kept)} answers; {figures['share_of_weights']:.3f} of the weights; {before:.1%} right before")
    trainer = GivenAnswers(
        model=small,
        teacher_model=large,
        args=settings(student, rows, steps, batch, learning_rate, seed),
        train_dataset=Dataset.from_list(kept),
        processing_class=tokenizer,
    )
    clock = TimeLimit(minutes * 60)
    trainer.add_callback(clock)
    used = time.process_time()
    if steps:
        trainer.train()
    figures |= {"steps": trainer.state.global_step, "wall_s": clock.seconds, "cpu_s": time.process_time() - used}
    figures |= {"right_before": before, "right_after": agreement(small, rest, tokenizer)}
    small.save_pretrained(student)
    tokenizer.save_pretrained(student)
    checkpoint.generation_config.save_pretrained(student)
    click.echo(f"{figures['right_after']:.1%} right after {figures['steps']} steps")
    finish({"teacher": teacher, "answers": len(rows), "batch": batch, "seed": seed} | figures, out)


def settings(
    student: Path, rows: Sequence[Row], steps: int, batch: int, learning_rate: float, seed: int
) -> DistillationConfig:
    """TRL's settings of the run."""
    return DistillationConfig(
        output_dir=str(student),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        beta=0.0,  # forward KL: a guess is the token that the teacher puts first
        max_completion_length=max(len(row["completion_ids"]) for row in rows),
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        seed=seed,
    )


def read_answers(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """The prompt and the tokens of every answer of doge-generate that has any."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        if fields.get("text"):
            ids = tokenizer(fields["text"], add_special_tokens=False)["input_ids"]
            ending = [tokenizer.eos_token_id] if fields["finish_reason"] == "stop" else []
            rows.append({"prompt": fields.get("messages") or fields["prompt"], "completion_ids": [*ids, *ending]})
    return rows


def sequence(row: Row, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Prompt and answer as token ids, int64 [1, tokens]."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return torch.tensor([[*tokenizer(prompt)["input_ids"], *row["completion_ids"]]])
    prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    return torch.tensor([[*prompt, *row["completion_ids"]]])


def weights(model: DogeForCausalLM) -> int:
    """The number of weights that a step reads; the embedding is the output matrix too."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def agreement(model: DogeForCausalLM, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> float:
    """The share of the answers' tokens that the model puts first, behind those before them."""
    right = total = 0
    for row in rows:
        ids, count = sequence(row, tokenizer), len(row["completion_ids"])
        logits = model(input_ids=ids, logits_to_keep=count + 1).logits[0, :-1]
        right += int((logits.argmax(-1) == ids[0, -count:]).sum())
        total += count
    return right / total


@torch.no_grad()
def cut(model: DogeForCausalLM, layers: Sequence[int], width: int | None, texts: Sequence[Tensor]) -> DogeForCausalLM:
    """A model of some layers, each fitted to stand for those behind it; of a Llama a narrower one where width is given.

    A hidden state x becomes (x s) Q then, where s is the root of the final gain's size. So one matrix, (E s) Q, still
    serves as embedding and output. Q [hidden, width] are the first principal directions of the states between layers.
    """
    gain = model.model.norm.weight.double()
    s = torch.ones_like(gain) if width is None else gain.abs().sqrt()
    points = [torch.cat(states).double() for states in zip(*states_of(model, (*layers, -1), texts), strict=True)]
    # The last has its gain already. Where that is negative, the last layer learns to turn the sign.
    points = [*(each * s for each in points[:-1]), points[-1] / (gain if width is None else s)]
    config = DogeConfig(**model.config.to_dict() | {"num_hidden_layers": len(layers)})
    if width is None:
        directions = torch.eye(len(gain), dtype=torch.float64)
        small = copied(model, layers, config)
    else:
        config.hidden_size = width
        directions = principal([*points, model.model.embed_tokens.weight.double() * s], width)
        small = narrowed(model, layers, config, s, directions, points)
    for number in range(len(layers)):
        fit_layer(small, number, points[number + 1] @ directions, texts)
    return small


def states_of(model: DogeForCausalLM, numbers: Sequence[int], texts: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Of each text, the states before some layers, float32 [tokens - 1, hidden]; the first token's are outliers."""
    for ids in texts:
        states = model.model(input_ids=ids, output_hidden_states=True).hidden_states
        yield [states[number][0, 1:] for number in numbers]


def copied(model: DogeForCausalLM, layers: Sequence[int], config: DogeConfig) -> DogeForCausalLM:
    """A model of some layers, as they are."""
    small = DogeForCausalLM(config)
    small.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    small.model.norm.load_state_dict(model.model.norm.state_dict())
    small.lm_head.load_state_dict(model.lm_head.state_dict())
    for target, source in zip(small.model.layers, layers, strict=True):
        target.load_state_dict(model.model.layers[source].state_dict())
    return small


def narrowed(
    model: DogeForCausalLM,
    layers: Sequence[int],
    config: DogeConfig,
    s: Tensor,
    directions: Tensor,
    points: Sequence[Tensor],
) -> DogeForCausalLM:
    """A Llama of some layers that reads and writes some directions alone; points: see `cut`."""
    if not is_llama(model.config, model.state_dict()) or not model.config.tie_word_embeddings:
        raise click.BadParameter("width goes with a Llama whose embedding is its output; leave it out")
    small = DogeForCausalLM(config)
    small.model.embed_tokens.weight.data = ((model.model.embed_tokens.weight.double() * s) @ directions).float()
    scales = [float((rms(state @ directions) / rms(state / s)).mean()) for state in points]
    for target, source, scale in zip(small.model.layers, layers, scales, strict=False):
        cut_layer(target, model.model.layers[source], s, directions, scale)
    small.model.norm.weight.data.fill_(scales[-1])
    for name in llama_lacks(dict(small.named_parameters())):
        small.get_parameter(name).requires_grad_(False)  # the student stays a Llama
    small.tie_weights()
    return small


def principal(points: Sequence[Tensor], width: int) -> Tensor:
    """The first principal directions, float64 [hidden, width], of several sets of rows; each row counts alike."""
    units = [each / each.norm(dim=-1, keepdim=True).clamp(min=EPS) for each in points]
    covariance = torch.stack([unit.T @ unit / len(unit) for unit in units]).sum(dim=0)
    directions: Tensor = torch.linalg.eigh(covariance).eigenvectors[:, -width:]
    return directions


def fit_layer(small: DogeForCausalLM, number: int, aims: Tensor, texts: Sequence[Tensor]) -> None:
    """Fit a layer's last matrix by least squares to the teacher's states behind it, float64 [tokens, width].

    Those are where the next of the chosen layers begins, so the layer stands for all that are left out between.
    """
    layer: Any = small.model.layers[number]
    seen, outputs = list[tuple[Tensor, Tensor]](), list[Tensor]()
    hooks = [
        layer.mlp.down_proj.register_forward_hook(lambda _, given, out: seen.append((given[0][0, 1:], out[0, 1:]))),
        layer.register_forward_hook(lambda _, given, out: outputs.append(as_states(out)[0, 1:])),
    ]
    for ids in texts:
        small.model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    features = torch.cat([given for given, _ in seen]).double()
    lacking = torch.cat(outputs).double() - torch.cat([out for _, out in seen]).double()
    aims = aims * (rms(lacking) / rms(aims)).mean() if number == len(small.model.layers) - 1 else aims
    square = features.T @ features
    square += square.diagonal().mean() * RIDGE * torch.eye(len(square), dtype=torch.float64)
    layer.mlp.down_proj.weight.data = torch.linalg.solve(square, features.T @ (aims - lacking)).T.float().contiguous()


def as_states(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The hidden states of a layer's output."""
    return output if isinstance(output, Tensor) else output[0]


def rms(points: Tensor) -> Tensor:
    """Root mean squares of rows, float64 [points]: a norm divides by them, and those of a narrow state are others."""
    return points.pow(2).mean(-1).sqrt()


def cut_layer(target: Any, source: Any, s: Tensor, directions: Tensor, scale: float) -> None:
    """Fill a layer with the part of another one that reads and writes the kept directions."""
    for norm, readers in READERS:
        gain = source.get_parameter(f"{norm}.weight").double()
        target.get_parameter(f"{norm}.weight").data.fill_(scale)
        for reader in readers:
            matrix = source.get_parameter(f"{reader}.weight").double()
            target.get_parameter(f"{reader}.weight").data = ((matrix * (gain / s)) @ directions).float()
    for writer in WRITERS:
        matrix = source.get_parameter(f"{writer}.weight").double()
        target.get_parameter(f"{writer}.weight").data = (directions.T @ (s[:, None] * matrix)).float()


class TimeLimit(TrainerCallback):
    """Ends a run after some time.

    Attributes:
        seconds: that the run took.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.seconds, self._begin = limit, 0.0, time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop behind the first step that is late."""
        self.seconds = time.monotonic() - self._begin
        control.should_training_stop |= self.seconds > self.limit


class GivenAnswers(DistillationTrainer):
    """TRL's trainer on answers that are there already. The teacher reads each of them once."""

    def __init__(self, **kwargs: Any) -> None:
        self._completions: list[list[int]] = []
        self._read: dict[bytes, Tensor] = {}  # tokens of a text -> the teacher's states behind its answer's tokens
        super().__init__(**kwargs)

    def _generate_and_score_completions(self, inputs: list[Row]) -> Row:
        self._completions = [row["completion_ids"] for row in inputs]
        return cast(Row, super()._generate_and_score_completions(inputs))

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        """The answers in place of the student's own."""
        return self._completions

    def _get_last_hidden_state(self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int) -> Any:
        """Float32 [rows, logits_to_keep, hidden]; the teacher's are zeros behind the end of an answer."""
        if model is not self.teacher_model:
            return super()._get_last_hidden_state(model, input_ids, attention_mask, logits_to_keep)
        found = torch.zeros(len(input_ids), logits_to_keep, model.config.hidden_size)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
            count, text = int(mask[-logits_to_keep:].sum()), ids[mask]
            key = text.numpy().tobytes()
            if key not in self._read:
                self._read[key] = model.model(text[None]).last_hidden_state[0, -count - 1 : -1].clone()
            found[row, :count] = self._read[key]
        return found


if __name__ == "__main__":
    main()
