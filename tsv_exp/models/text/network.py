"""transformers' encoders: built from a folder's config.json, pooled to features, or followed by a trained head."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tsv_exp.errors import UserError

Pooling = Literal["mean", "cls"]


def configuration(folder: Path, where: str) -> Any:
    """The configuration of a model in a folder.

    Raises:
        UserError: transformers is not installed, or there is no config.json that it knows.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise UserError("models of text need transformers; pip install 'tsv_exp[text]'") from error
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{where}: no config.json of an encoder that transformers knows ({reason})") from error


def tokenizer(folder: Path, where: str) -> Any:
    """The tokenizer in a folder.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{where}: no tokenizer that transformers can read ({reason})") from error


def new_encoder(config: Any) -> nn.Module:
    """The encoder of a configuration, without the pooler that only heads use, with random weights."""
    from transformers import AutoModel

    try:
        return AutoModel.from_config(config, add_pooling_layer=False)
    except TypeError:  # an architecture without a pooler
        return AutoModel.from_config(config)


def new_classifier(config: Any, outputs: int) -> Any:
    """An encoder with a head of `outputs` outputs (1 for regression), as in AutoModelForSequenceClassification."""
    from transformers import AutoModelForSequenceClassification

    kept = {name: value for name, value in config.to_dict().items() if name not in ("id2label", "label2id")}
    config = type(config).from_dict(kept | {"num_labels": outputs})
    return AutoModelForSequenceClassification.from_config(config)


def classifier_configuration(network: Any, classes: Sequence[str], order: Sequence[int]) -> str:
    """config.json of a network with a head.

    Args:
        network: from `new_classifier`.
        classes: the names of the task's classes; none if its labels are values.
        order: the output of each class.
    """
    config = network.config
    if classes:
        config.id2label = dict(sorted(zip(order, classes, strict=True)))
        config.label2id = {name: output for output, name in config.id2label.items()}
    config.architectures = [type(network).__name__]
    config.dtype = torch.float32
    return str(config.to_json_string())


def new_seq2seq(config: Any) -> Any:
    """An encoder-decoder that generates text, with random weights."""
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_config(config)


def new_causal(config: Any) -> Any:
    """A language model with random weights."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config)


def shapes(network: nn.Module) -> dict[tuple[str, ...], torch.Size]:
    """All names of each parameter and buffer (several if it is tied) -> its shape."""
    groups: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in network.state_dict().items():
        groups.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    return {tuple(names): shape for (_, shape), names in groups.items()}


def pooled(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Features (B, d) of hidden states (B, L, d): their mean over tokens (mask (B, L) of 1), or that of the first."""
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


class _Given(nn.Module):
    """Replaces the encoder of a network with its precomputed output."""

    outputs: Any = None

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.outputs


class TrainedHead:
    """The head of a network with a classifier, applied to outputs of any encoder of its kind.

    Args:
        network: a network with random weights; its encoder is removed.
        weights: the head's weights.
        order: indices of the outputs in the order of the classes (C,).
        where: the origin of the weights, for error messages.
    """

    def __init__(self, network: Any, weights: Mapping[str, Tensor], order: Tensor, where: str):
        self._order = order
        self._given = _Given()
        setattr(network, network.base_model_prefix, self._given)
        try:
            network.load_state_dict(dict(weights))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()[:200]
            raise UserError(f"{where}: not the head of this task: {reason}") from error
        self._network = network.eval().requires_grad_(False)

    def to(self, device: torch.device) -> "TrainedHead":
        """Move the parameters, in place."""
        self._network.to(device)
        return self

    def __call__(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C), float32, from the encoder's outputs for a batch."""
        self._given.outputs = outputs
        logits: Tensor = self._network(**batch).logits
        return logits.float()[:, self._order.to(logits.device)]
