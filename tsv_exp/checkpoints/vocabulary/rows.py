"""Matches rows of embeddings and output heads by token, for models with different tokenizers."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsv_exp.checkpoints.vocabulary.tokenizers import Tokens
from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.views import View
from tsv_exp.merging.layer import ExplicitDeltas, Weights
from tsv_exp.runtime.messages.counts import counted, some
from tsv_exp.storage.json_files import read_object, values_of

_NUMBERED = re.compile(r"\.\d+\.")
_OF_TOKENS = re.compile("embed|head")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """The rows of the merged model: for each, its row in the base and in every model, or -1 if its token is missing.

    `names` are the tensors with `size` such rows. `files` of the tokenizer and `values` of config.json change.
    """

    base: Tensor
    models: Mapping[str, Tensor]
    names: tuple[str, ...]
    size: int
    files: Mapping[str, bytes]
    values: Mapping[str, Any]

    def of_base(self, base: Weights, models: Mapping[str, Weights]) -> Weights:
        """The base with these rows; missing rows are the mean over the models that have them."""
        return _Rows(base, self, None, models)

    def of_model(self, task: str, model: Weights, base: Weights) -> Weights:
        """A model with these rows; those that it or the base lacks are the base's, so that their task vector is 0."""
        if isinstance(
            model, ExplicitDeltas
        ):  # uses the base's vocabulary; `plan` checks that it does not change these weights
            return model
        return _Rows(model, self, task, base)


class _Rows(View):
    """Weights with rearranged rows. Rows of the base are cached in memory."""

    def __init__(self, weights: Weights, vocabulary: Vocabulary, task: str | None, others: Any) -> None:
        super().__init__(weights, {name: name for name in weights})
        self._vocabulary, self._task, self._others = vocabulary, task, others
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        stored = super().__getitem__(name)
        if name not in self._vocabulary.names:
            return stored
        if name in self._made:
            return self._made[name]
        own, rows = _by_token(stored), self._vocabulary.base
        if self._task is not None:
            rows = torch.where(rows < 0, rows, self._vocabulary.models[self._task])
        if _same(rows, own):
            return stored
        rest = self._means(name, own) if self._task is None else _by_token(self._others[name]).to(own.dtype)
        filled = _filled(own, rows, rest)
        made = filled if own is stored else filled.mT
        if self._task is None:
            self._made[name] = made
        return made

    def _means(self, name: str, own: Tensor) -> Tensor:
        """For every row of the result, the mean over the models that have it."""
        total = torch.zeros(self._vocabulary.size, *own.shape[1:], dtype=torch.float32)
        count = torch.zeros(self._vocabulary.size)
        missing = self._vocabulary.base < 0
        for task, model in self._others.items():
            rows = self._vocabulary.models[task]
            wanted = (missing & (rows >= 0)).nonzero().flatten()
            if len(wanted) and name in model:
                total[wanted] += _by_token(model[name])[rows[wanted]].float()
                count[wanted] += 1
        return (total / count.clamp(min=1).view(-1, *[1] * (own.dim() - 1))).to(own.dtype)


def _by_token(weight: Tensor) -> Tensor:
    """The tensor with a row for each token; BART's final_logits_bias has one row with an entry for each."""
    return weight.mT if weight.dim() == 2 and len(weight) == 1 else weight


def _same(rows: Tensor, own: Tensor) -> bool:
    return len(rows) == len(own) and torch.equal(rows, torch.arange(len(own)))


def _filled(own: Tensor, rows: Tensor, rest: Tensor) -> Tensor:
    return torch.where((rows >= 0).view(-1, *[1] * (own.dim() - 1)), own[rows.clamp(min=0)], rest)


def plan(
    base: Weights,
    models: Mapping[str, Weights],
    folders: Mapping[str | None, Path | None],
    choice: str | None,
    tokenizer: str | None,
) -> Vocabulary:
    """Plan the rows of the merged model.

    Args:
        base: the base.
        models: the models, under the base's names.
        folders: task -> folder of the model; None -> folder of the base.
        choice: base (the tokens of the result's tokenizer) or union (also the models' other tokens); None: base.
        tokenizer: the task whose tokenizer the result has; None: the base's.

    Raises:
        UserError: a tokenizer cannot be read, or the choice does not fit it.
    """
    tokens = {task: Tokens.read(folder, _what(task)) for task, folder in folders.items()}
    carried = tokens[tokenizer]
    size = _size(base, models, folders[None])
    names = _names(base, models, folders, size)
    if not names:
        raise UserError(
            f"vocabulary: no tensor has as many rows as the vocab_size in config.json, {size} in the base; correct it, "
            "in the base or in a model"
        )
    for task, model in models.items():
        if isinstance(model, ExplicitDeltas) and any(model.delta(name, torch.float32) is not None for name in names):
            raise UserError(f"{_what(task)} is an adapter that changes the vocabulary; merge it into its model first")
    target = dict(carried.rows)
    if choice != "union" and (lacking := [token for token in target if token not in tokens[None].rows]):
        some = f"{len(lacking)} of its tokens ({lacking[0]!r}, ...)"
        raise UserError(f"tokenizer={tokenizer}: the base has no row for {some}; give vocabulary=union")
    new: list[tuple[str, int, dict[str, Any]]] = []
    if choice == "union":
        following = 1 + max(target.values(), default=-1)
        for owner, other in tokens.items():
            more = sorted(other.rows.keys() - target.keys(), key=other.rows.__getitem__)
            _warn_of_pieces(owner, [token for token in more if token not in other.added])
            for token in more:
                target[token] = following
                new.append((token, following, other.added.get(token, {})))
                following += 1
    rows = max(size, 1 + max(target.values(), default=-1))
    files = carried.with_added(new) if new else {}
    own = _index(target, tokens[None].rows, rows, size, unnamed=True)
    sizes = {
        task: next((len(_by_token(model[name])) for name in names if name in model), size)
        for task, model in models.items()
    }
    found = {task: _index(target, tokens[task].rows, rows, sizes[task], unnamed=False) for task in models}
    _warn_of_zeros(target, own, found)
    values: dict[str, Any] = {"vocab_size": rows} if rows != size else {}
    if tokenizer is not None:
        values |= _special(carried.folder)
    return Vocabulary(own, found, names, rows, files, values)


def _warn_of_pieces(task: str | None, pieces: Sequence[str]) -> None:
    """Log new tokens that a tokenizer makes by its own rules (BPE): to another one they are literal text."""
    if pieces:
        log.warning(
            "%s of %s (%s) are in its vocabulary itself, not added to it; the result's tokenizer has them as added "
            "tokens and splits text as neither model does; tokenizer=%s splits it as this one",
            *(counted(len(pieces), "token"), _what(task), some([*map(repr, pieces)]), task or "base"),
        )


def _warn_of_zeros(target: Mapping[str, int], base: Tensor, models: Mapping[str, Tensor]) -> None:
    """Log the tokens of the result that are only in tokenizers: no embedding has a row for them."""
    known = (torch.stack([base, *models.values()]) >= 0).any(0).tolist()
    if zeros := [token for token, row in target.items() if not known[row]]:
        log.warning(
            "no embedding has a row for %s, which a tokenizer has (%s): zeros are written; "
            "resize the embeddings of that model first, with model.resize_token_embeddings(len(tokenizer))",
            *(counted(len(zeros), "token"), some([*map(repr, zeros)])),
        )


def _names(
    base: Weights, models: Mapping[str, Weights], folders: Mapping[str | None, Path | None], size: int
) -> tuple[str, ...]:
    """The tensors with a row for each token: as many rows as the vocabulary in the base and in every model.

    Weights of numbered layers may have as many by chance. Of those, only embeddings and heads have rows for tokens.
    """
    own = {task: _configured_size(folders[task]) for task in models}

    def fits(name: str, weight: Tensor) -> bool:
        if not weight.is_floating_point() or not weight.dim() or len(_by_token(weight)) != size:
            return False
        if _NUMBERED.search(name) and not _OF_TOKENS.search(name):
            return False
        theirs = [
            (len(_by_token(model[name])), own[task]) for task, model in models.items() if name in model and own[task]
        ]
        return all(rows == wanted for rows, wanted in theirs)

    return tuple(name for name, weight in base.items() if fits(name, weight))


def _index(target: Mapping[str, int], own: Mapping[str, int], rows: int, size: int, unnamed: bool) -> Tensor:
    """For every row of the result the row of the same token, or -1; `unnamed`: rows without a token stay in place."""
    index = torch.full((rows,), -1, dtype=torch.int64)
    if unnamed:
        index[: min(size, rows)] = torch.arange(min(size, rows))
        index[torch.tensor(list(target.values()), dtype=torch.int64)] = -1
    for token, row in target.items():
        if own.get(token, size) < size:
            index[row] = own[token]
    return index


def _size(base: Weights, models: Mapping[str, Weights], folder: Path | None) -> int:
    """The number of rows of the base's embedding: from its config.json, else from shapes that differ between models."""
    if size := _configured_size(folder):
        return size
    for model in models.values():
        for name, weight in base.items():
            if name in model and model[name].shape != weight.shape and model[name].shape[1:] == weight.shape[1:]:
                return len(weight)
    raise UserError("vocabulary: the base's config.json has no vocab_size, and all embeddings have its number of rows")


def _configured_size(folder: Path | None) -> int | None:
    """The vocab_size in a folder's config.json."""
    config: dict[str, Any] = {}
    if folder is not None and (folder / "config.json").is_file():
        config = read_object(folder / "config.json")
    return next((size for size in values_of(config, "vocab_size") if isinstance(size, int)), None)


def _special(folder: Path) -> dict[str, Any]:
    """The rows of special tokens (bos_token_id, ...) in a model's config.json."""
    path = folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    return {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}


def _what(task: str | None) -> str:
    return "the base" if task is None else f"model {task!r}"
