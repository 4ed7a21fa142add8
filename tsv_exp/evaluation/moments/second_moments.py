"""Second moments of the inputs of linear layers, per task and layer: computed once, cached, read layer by layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tsv_exp.evaluation.evaluator import Evaluator, weights_digest
from tsv_exp.evaluation.moments.examples import Inputs
from tsv_exp.merging.layer import Weights
from tsv_exp.routing.capture import Receiver, as_tokens, captured
from tsv_exp.routing.tokens import padding_mask
from tsv_exp.runtime.console import track
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import cache_dir
from tsv_exp.storage.weight_cache import cached_weights
from tsv_exp.versions import EVALUATION


@dataclass(frozen=True)
class Moments:
    """Layer -> second moments (T, n, n) of its inputs; a file per task holds them, and one layer is read at a time."""

    files: Sequence[Path]
    names: frozenset[str]

    def __call__(self, name: str) -> Tensor | None:
        """(T, n, n), float32: the mean of x xᵀ over examples and tokens; None for a layer that was not captured."""
        if name not in self.names:
            return None
        found = []
        for path in self.files:
            with safe_open(path, framework="pt") as file:
                found.append(file.get_tensor(name))
        return torch.stack(found)


def second_moments(inputs: Inputs, evaluator: Evaluator, finetuned: Mapping[str, Weights]) -> Moments:
    """The moments of every task's fine-tuned model on the chosen inputs; holds those of one task at a time.

    Raises:
        UserError: the inputs cannot be had.
    """
    files, names = [], []
    for task in track(finetuned, "inputs of layers"):
        key = _key(inputs, evaluator, task, finetuned[task])
        path = cache_dir() / "moments" / f"{task}-{key[:20]}.safetensors".replace("/", "_")
        names.append(frozenset(cached_weights(path, key, partial(_measure, inputs, evaluator, task, finetuned[task]))))
        files.append(path)
    return Moments(files, frozenset.intersection(*names))


def _key(inputs: Inputs, evaluator: Evaluator, task: str, weights: Weights) -> str:
    used: Any = inputs
    identities = [evaluator.model.identity(evaluator.tasks[name]) for name in (task, *inputs.tasks(evaluator, task))]
    return digest(type(used).__name__, asdict(used), identities, weights_digest(weights), EVALUATION)


def _measure(inputs: Inputs, evaluator: Evaluator, task: str, weights: Weights) -> dict[str, Tensor]:
    encoder = evaluator.model.encoder()
    encoder.load_state_dict(dict(weights), strict=False)
    encoder = encoder.to(evaluator.device).eval().requires_grad_(False)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    mask: Tensor | None = None

    def receive(name: str, found: Tensor) -> None:
        padded = mask is not None and mask.shape == found.shape[:2]
        rows = (found[mask != 0] if padded else found.flatten(0, -2)).float()
        product = rows.mT @ rows
        sums[name] = sums[name] + product if name in sums else product
        counts[name] = counts.get(name, 0) + len(rows)

    with torch.no_grad(), captured(encoder, weights, receive), captured_attention(encoder, weights, receive):
        for batch in inputs.batches(evaluator, task):
            mask = padding_mask(batch)
            evaluator.model.predict(encoder, batch, evaluator.tasks[task])
    return {name: (total / counts[name]).clone() for name, total in sums.items()}


@contextmanager
def captured_attention(network: nn.Module, names: Mapping[str, Any], receive: Receiver) -> Iterator[None]:
    """As `captured`, of the output projections of torch's attention, whose modules are never called.

    While the attention runs, its projection is the identity; what it returns is received and then projected.
    """
    with ExitStack() as stack:
        for owner, module in network.named_modules():
            name = f"{owner}.out_proj.weight" if owner else "out_proj.weight"
            if isinstance(module, nn.MultiheadAttention) and name in names:
                before, after = _exposed(module, name, receive)
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
        yield


def _exposed(module: nn.MultiheadAttention, name: str, receive: Receiver) -> tuple[Callable[..., Any], ...]:
    projection = module.out_proj
    weight, bias = projection.weight.data, None if projection.bias is None else projection.bias.data
    identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)

    def before(_: nn.Module, args: Any) -> None:
        projection.weight.data = identity
        if bias is not None:
            projection.bias.data = torch.zeros_like(bias)

    def after(_: nn.Module, args: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        projection.weight.data = weight
        if bias is not None:
            projection.bias.data = bias
        receive(name, as_tokens(output[0].detach(), module.batch_first))
        return nn.functional.linear(output[0], weight, bias), output[1]

    return before, after
