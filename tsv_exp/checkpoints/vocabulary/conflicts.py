"""Rows of embeddings that belong to different tokens in models that are merged by row number."""

import logging
from collections.abc import Mapping
from pathlib import Path

from tsv_exp.checkpoints.vocabulary.tokenizers import VOCABULARIES, Tokens
from tsv_exp.errors import UserError
from tsv_exp.runtime.messages.counts import counted

log = logging.getLogger(__name__)


def warn_of_other_tokens(folders: Mapping[str | None, Path | None]) -> None:
    """Log a row that has different tokens in two models, and how many there are.

    Equal tokenizer files are read once; a model without a readable tokenizer is left out.

    Args:
        folders: task -> folder of the model, if it has one; None -> that of the base.
    """
    seen: set[tuple[bytes, ...]] = set()
    known: dict[int, tuple[str, str]] = {}
    for task, folder in folders.items():
        what = "the base" if task is None else f"model {task!r}"
        if folder is None:
            continue
        files = tuple((folder / name).read_bytes() for name in VOCABULARIES if (folder / name).is_file())
        if not files or files in seen:
            continue
        seen.add(files)
        try:
            tokens = {row: token for token, row in Tokens.read(folder, what).rows.items()}
        except UserError:
            log.debug("no tokens of %s", folder, exc_info=True)
            continue
        other = [row for row, token in tokens.items() if known.get(row, (token,))[0] != token]
        if other:
            token, first = known[other[0]]
            log.warning(
                "row %d of the vocabulary is %r in %s and %r in %s (%s with different tokens); rows are merged by "
                "number; vocabulary=base or union matches them by token",
                *(other[0], token, first, tokens[other[0]], what, counted(len(other), "row")),
            )
        known = {row: (token, what) for row, token in tokens.items()} | known
