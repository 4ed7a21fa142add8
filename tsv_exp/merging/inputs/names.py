"""Matches parameter names of two models whose prefixes differ because of wrappers and task heads."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

# torch.compile, FSDP, activation checkpointing: around any module
_AROUND = r"_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
# and around a whole model torch.nn.parallel, DeepSpeed and Lightning, PEFT
_WRAPPERS = re.compile(rf"^((module|_forward_module|base_model\.model|{_AROUND})\.)+|(?<=\.)({_AROUND})\.")
_RENAMED = (  # what the same tensor is called in files of other versions of transformers and PyTorch
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
    (re.compile(r"(?<![^.])language_model\."), ""),  # language_model.model.layers, model.language_model.layers
)
_DEPTH = 3  # components of a prefix
# PEFT's lora_A, lora_B; the lora.up, lora.down of diffusers; the lora_up, lora_down of kohya; LyCORIS
_FACTOR = re.compile(r"(.*[._])?(lora[._](embedding_)?(A|B|up|down)|hada_w[12]|lokr_w[12])([._].*)?")


def match_names(base: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """The name of the other model for every name of the base that it has.

    Names that are equal belong together. Where some have no partner, what wrappers add to names is removed, names of
    other versions of the libraries are made equal, and then one prefix that most names of a side share is taken off or
    put on (`transformer.h.0` and `h.0`), whichever finds the most partners. Tensors are not looked at: callers compare
    shapes.
    """
    own = list(names)
    wanted = set(base)
    same = {name: name for name in own if name in wanted}
    if len(same) == len(wanted) or len(same) == len(own):
        return same
    bare_base = {_common(name): name for name in base}
    bare_own = {name: _common(name) for name in own}
    if len(bare_base) < len(wanted) or len(set(bare_own.values())) < len(
        own
    ):  # wrappers are all that tells names apart
        return same
    towers = [on for on in _leading(bare_base) if all(on + bare in bare_base for bare in bare_own.values())]
    if len(towers) == 1:  # one of several towers, named as if it were alone
        return {bare_base[towers[0] + bare]: name for name, bare in bare_own.items()}
    attempts = [_paired(bare_base, bare_own, "", "")]
    attempts += [_paired(bare_base, bare_own, prefix, "") for prefix in _prefixes(bare_own.values())]
    attempts += [_paired(bare_base, bare_own, "", prefix) for prefix in _prefixes(bare_base)]
    return max([same, *attempts], key=len)


def added_factor(names: Iterable[str], base: Iterable[str]) -> str | None:
    """The name of a LoRA factor, if a model has factors and its base has none."""
    found = next((name for name in names if _FACTOR.fullmatch(name)), None)
    return None if any(_FACTOR.fullmatch(name) for name in base) else found


def _common(name: str) -> str:
    """A name without what wrappers add, and as other versions of the libraries have it."""
    name = bare(name)
    for pattern, other in _RENAMED:
        name = pattern.sub(other, name)
    return name


def bare(name: str) -> str:
    """A name without what wrappers add."""
    return _WRAPPERS.sub("", name)


def _prefixes(names: Iterable[str]) -> list[str]:
    """The leading components that at least half of the names share, the shortest first."""
    names = list(names)
    return sorted((prefix for prefix, count in _leading(names).items() if 2 * count >= len(names)), key=len)


def _leading(names: Iterable[str]) -> Counter[str]:
    """How many names begin with each prefix of a few components."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(_DEPTH, len(parts) - 1) + 1))
    return counts


def _paired(base: Mapping[str, str], own: Mapping[str, str], off: str, on: str) -> dict[str, str]:
    """Matches with a prefix removed from or added to the other model's names; equal names take precedence."""
    found = {base[bare]: name for name, bare in own.items() if bare in base}
    for name, bare in own.items():
        changed = on + bare.removeprefix(off)
        if bare not in base and changed in base:
            found.setdefault(base[changed], name)
    return found
