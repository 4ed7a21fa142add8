"""Second moments of the inputs of linear layers, per task and layer: computed once, cached, read layer by layer."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tsv_exp.decompositions.numerics import gram
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

TRACKED = "inputs of layers"


@dataclass(frozen=True)
class Moments:
    """Layer -> second moments (T, n, n) of its inputs, from the files of that layer: one per task."""

    files: Mapping[str, Sequence[Path]]

    def __call__(self, name: str) -> Tensor | None:
        """(T, n, n), float32: the mean of x xᵀ over examples and tokens; None for a layer that was not captured."""
        found = []
        for path in self.files.get(name, ()):
            with safe_open(path, framework="pt") as file:
                found.append(file.get_tensor(name))
        return torch.stack(found) if found else None


def second_moments(inputs: Inputs, evaluator: Evaluator, finetuned: Mapping[str, Weights]) -> Moments:
    """The moments of every task's fine-tuned model on the chosen inputs; holds those of one task at a time.

    Raises:
        UserError: the inputs cannot be had.
    """
    found = [
        _cached(inputs, evaluator, task, finetuned[task], weights_digest(finetuned[task]))
        for task in track(finetuned, TRACKED)
    ]
    return Moments(_common(found))


def moments_of_merged(
    inputs: Inputs,
    evaluator: Evaluator,
    base: Weights,
    finetuned: Mapping[str, Weights],
    merge: Callable[[Weights, Mapping[str, Weights], Moments], Weights],
) -> Moments:
    """The moments of every task's blocks on the outputs of the merged blocks before them (RegMean++, arXiv 2508.03121).

    The blocks are the members of the network's first numbered list, in order. Those before the one that is measured are
    merged with α = 1, those after it do not run. Layers outside of blocks are merged first, without moments; theirs are
    measured last.

    Args:
        inputs: on which the networks run.
        evaluator: has the network.
        base: the pre-trained weights.
        finetuned: the fine-tuned weights by task.
        merge: base weights, fine-tuned weights by task, and moments of some layers -> the task vector of these layers.

    Raises:
        UserError: the inputs cannot be had.
    """
    blocks = _blocks(base)
    outside = blocks.pop("")
    merged, files = dict(base), dict[str, Sequence[Path]]()

    def settle(names: Sequence[str]) -> None:
        own = {task: {name: weights[name] for name in names} for task, weights in finetuned.items()}
        changes = merge({name: base[name] for name in names}, own, Moments(files))
        merged.update({name: base[name] + change.to(base[name]) for name, change in changes.items()})

    if outside:
        settle(outside)
    for block, names in track(blocks.items(), TRACKED):
        before, found = weights_digest(merged), []
        for task, weights in finetuned.items():
            own = {name: weights[name] for name in names}
            found.append(_cached(inputs, evaluator, task, merged | own, digest(before, own), block, names))
        files |= _common(found)
        settle(names)
    if outside:
        whole = weights_digest(merged)
        files |= _common([_cached(inputs, evaluator, task, merged, whole, "", outside) for task in finetuned])
    return Moments(files)


def _blocks(names: Iterable[str]) -> dict[str, list[str]]:
    """Block -> its parameters, by the part of their names up to the first number; "" for those outside of blocks."""
    found: dict[str, list[str]] = {"": []}
    for name in names:
        numbered = re.match(r"(.*?\.)?\d+(?=\.)", name)
        found.setdefault(numbered[0] if numbered else "", []).append(name)
    return found


def _common(files: Sequence[Mapping[str, Path]]) -> dict[str, Sequence[Path]]:
    """Layer -> its file for each task, for the layers that every task has."""
    first, *others = files
    return {name: [one[name] for one in files] for name in first if all(name in other for other in others)}


def _cached(
    inputs: Inputs,
    evaluator: Evaluator,
    task: str,
    weights: Weights,
    identity: str,
    block: str = "",
    names: Sequence[str] = (),
) -> dict[str, Path]:
    """Layer -> the file with its moments in a network with these weights; of one block, or of these layers, or all.

    `identity` is a digest of the weights: hashing all of them for every task and block would take longer than merging.
    """
    used: Any = inputs
    identities = [evaluator.model.identity(evaluator.tasks[name]) for name in (task, *inputs.tasks(evaluator, task))]
    parts = type(used).__name__, asdict(used), identities, identity, EVALUATION
    key = digest(*parts, *([block, list(names)] if names else []))
    path = cache_dir() / "moments" / f"{task}-{key[:20]}.safetensors".replace("/", "_")
    make = partial(_measure, inputs, evaluator, task, weights, block, names or list(weights))
    return dict.fromkeys(cached_weights(path, key, make), path)


class _BlockEndedError(Exception):
    """Ends a forward pass after the block that is measured."""


def _measure(
    inputs: Inputs, evaluator: Evaluator, task: str, weights: Weights, block: str, names: Sequence[str]
) -> dict[str, Tensor]:
    encoder = evaluator.model.encoder()
    encoder.load_state_dict(dict(weights), strict=False)
    encoder = encoder.to(evaluator.device).eval().requires_grad_(False)

    def end(*_: object) -> None:
        raise _BlockEndedError

    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    mask: Tensor | None = None

    def receive(name: str, found: Tensor) -> None:
        padded = mask is not None and mask.shape == found.shape[:2]
        rows = (found[mask != 0] if padded else found.flatten(0, -2)).float()
        product = gram(rows)
        sums[name] = sums[name] + product if name in sums else product
        counts[name] = counts.get(name, 0) + len(rows)

    with torch.no_grad(), captured(encoder, names, receive), captured_attention(encoder, names, receive):
        if block:
            encoder.get_submodule(block).register_forward_hook(end)
        for batch in inputs.batches(evaluator, task):
            mask = padding_mask(batch)
            with suppress(_BlockEndedError):
                evaluator.model.predict(encoder, batch, evaluator.tasks[task])
    return {name: (total / counts[name]).clone() for name, total in sums.items()}


@contextmanager
def captured_attention(network: nn.Module, names: Iterable[str], receive: Receiver) -> Iterator[None]:
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
