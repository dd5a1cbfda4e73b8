"""Doge with a head for labels or a reward, by the conventions of transformers' sequence classifiers.

The logits of a text are those behind its last token that is not padding. `score` is their matrix, without a bias. The
loss is transformers' own, by `config.problem_type`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.cache_utils import Cache
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple

from doge_common.errors import OptionError

from .configuration import DogeConfig
from .labels import give_labels
from .modeling import DogeForCausalLM, DogeModel, DogeWithHead


class DogeForSequenceClassification(DogeWithHead):
    """Doge with a row of logits for each text."""

    def __init__(self, config: DogeConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = DogeModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()

    @classmethod
    def from_causal(
        cls, causal: DogeForCausalLM, labels: Sequence[str], problem_type: str | None = None
    ) -> DogeForSequenceClassification:
        """A classifier with the body of a causal model, whose parameters it takes over, and a new random head.

        Raises:
            CheckpointError: the labels are no labels, see `give_labels`.
        """
        config = copy.deepcopy(causal.config)
        give_labels(config, labels, problem_type)
        with torch.device("meta"):
            classifier = cls(config)
        body = {name: parameter for name, parameter in causal.named_parameters() if name.startswith("model.")}
        score = torch.empty(len(labels), config.hidden_size, dtype=causal.dtype).normal_(std=config.initializer_range)
        classifier.load_state_dict(body | {"score.weight": score}, assign=True)
        return classifier.train(causal.training)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """input_ids int64 [B, T] -> logits [B, labels]; with labels also the loss.

        labels: int64 [B] of single labels, float [B, labels] of several, float [B] or [B, labels] of regression.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device)
        logits = self.score(hidden[rows, self.last_tokens(input_ids, hidden)])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def last_tokens(self, input_ids: Tensor | None, hidden: Tensor) -> Tensor:
        """The place of each row's last token that is not padding: [B, T, hidden] -> int64 [B].

        As in transformers, padding is told by config.pad_token_id and not by the mask, and embeddings have none.

        Raises:
            OptionError: there are several rows, and no token for padding.
        """
        count, length = hidden.shape[:2]
        pad = self.config.pad_token_id
        if pad is None and count > 1:
            raise OptionError(f"pad_token_id is None; it must be the id of a token for a batch of {count} rows")
        places = torch.arange(length, device=hidden.device)
        if pad is None or input_ids is None:
            return places[-1:].expand(count)
        return (places * (input_ids != pad)).argmax(dim=-1)


AnyDoge = DogeForCausalLM | DogeForSequenceClassification

AutoModelForSequenceClassification.register(DogeConfig, DogeForSequenceClassification, exist_ok=True)
