"""One progress bar at a time: transformers draws one of evaluation and one of saving below that of training."""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import has_length
from transformers.utils import logging as transformers_logging


class OneBar(ProgressCallback):
    """The bar of training, which counts the batches of an evaluation in front of itself."""

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Count a batch."""
        if self.training_bar is None:
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)
        elif state.is_world_process_zero:
            self.evaluated += 1
            total = f"/{len(eval_dataloader)}" if has_length(eval_dataloader) else ""
            self.training_bar.set_description_str(f"evaluating {self.evaluated}{total}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the count."""
        self.evaluated = 0
        if self.training_bar is not None:
            self.training_bar.set_description_str("training")
        super().on_evaluate(args, state, control, **kwargs)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar."""
        self.evaluated = 0
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description_str("training")


def show_one_bar(trainer: Trainer) -> None:
    """Give a trainer that draws progress `OneBar`, and keep transformers from drawing any of loading and saving."""
    transformers_logging.disable_progress_bar()
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(OneBar)
