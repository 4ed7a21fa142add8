"""Matches parameter names of two models whose prefixes differ because of wrappers and task heads."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_WRAPPERS = (
    re.compile(  # torch.nn.parallel, torch.compile, FSDP, activation checkpointing, DeepSpeed and Lightning, PEFT
        r"^(module\.|_forward_module\.|base_model\.model\.)+|"
        r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
    )
)
_DEPTH = 3  # components of a prefix


def match_names(base: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """The name of the other model for every name of the base that it has.

    Names that are equal belong together. Where some have no partner, what wrappers add to names is removed, and then
    one prefix that most names of a side share is taken off or put on (`transformer.h.0` and `h.0`), whichever finds the
    most partners. Tensors are not looked at: callers compare shapes.
    """
    own = list(names)
    wanted = set(base)
    same = {name: name for name in own if name in wanted}
    if len(same) == len(wanted) or len(same) == len(own):
        return same
    bare_base = {_bare(name): name for name in base}
    bare_own = {name: _bare(name) for name in own}
    if len(bare_base) < len(wanted) or len(set(bare_own.values())) < len(
        own
    ):  # wrappers are all that tells names apart
        return same
    attempts = [_paired(bare_base, bare_own, "", "")]
    attempts += [_paired(bare_base, bare_own, prefix, "") for prefix in _prefixes(bare_own.values())]
    attempts += [_paired(bare_base, bare_own, "", prefix) for prefix in _prefixes(bare_base)]
    return max([same, *attempts], key=len)


def _bare(name: str) -> str:
    return _WRAPPERS.sub("", name)


def _prefixes(names: Iterable[str]) -> list[str]:
    """The leading components that at least half of the names share, the shortest first."""
    names = list(names)
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(_DEPTH, len(parts) - 1) + 1))
    return sorted((prefix for prefix, count in counts.items() if 2 * count >= len(names)), key=len)


def _paired(base: Mapping[str, str], own: Mapping[str, str], off: str, on: str) -> dict[str, str]:
    """Matches with a prefix removed from or added to the other model's names; equal names take precedence."""
    found = {base[bare]: name for name, bare in own.items() if bare in base}
    for name, bare in own.items():
        changed = on + bare.removeprefix(off)
        if bare not in base and changed in base:
            found.setdefault(base[changed], name)
    return found
