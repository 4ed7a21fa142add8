"""LoRA adapters without their base model: the low-rank factors."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsv_exp.checkpoints.adapters.changed_model import ChangedModel
from tsv_exp.checkpoints.adapters.lora import Adapter as OnBase
from tsv_exp.checkpoints.adapters.lora_config import FILE, LoraConfig, base_of
from tsv_exp.checkpoints.adapters.stored import add_factor, usable
from tsv_exp.checkpoints.readers import read
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.inputs.alignment import align_names, matches
from tsv_exp.merging.inputs.names import bare
from tsv_exp.merging.inputs.remedies import listed, option

PREFIX = "base_model.model."  # prefix of module names in PEFT's files
_KEY = re.compile(rf"({re.escape(PREFIX)})?(?P<module>.+)\.lora_(?P<side>[AB])(\.\w+)?\.weight")


Initial = Callable[[str], LowRank | None]


@dataclass(frozen=True)
class Adapter:
    """One adapter: its configuration, and per module B (m, r), A (r, n) and the scale s in s · B A.

    `initial` gives what the initialization subtracted from a module's weight (PiSSA, OLoRA); None if it did not.
    `own_names` are those of the weights it changes, also of those that are left out.
    """

    path: Path
    config: Mapping[str, Any]
    modules: Mapping[str, tuple[Tensor, Tensor, float]]
    own_names: tuple[str, ...]
    initial: Initial | None = None

    @classmethod
    def open(cls, file: Path, base: Mapping[str, Tensor] | None = None, ignore: Sequence[str] = ()) -> "Adapter":
        """Open an adapter file that PEFT wrote, with the configuration next to it.

        Args:
            file: its weights.
            base: the weights that it changes, which are read only if its initialization changed them.
            ignore: patterns of the names (<module>.weight) that are left out.

        Raises:
            UserError: it is damaged, contains more than low-rank updates of matrices, or needs a base and has none.
        """
        path = file.parent
        lora, tensors = LoraConfig.load(path), read(file)
        if lora.parameters:
            raise UserError(
                f"{path}: form=lora takes adapters of modules, and this one changes parameters (target_parameters); "
                "merge it into the model: give base=PATH, and leave form=lora out"
            )
        config = json.loads((path / FILE).read_text(encoding="utf-8"))
        sides: dict[str, dict[str, Tensor]] = {}
        own_names: dict[str, None] = {}
        odd: dict[str, str] = {}
        for key in tensors:
            match = _KEY.fullmatch(key)
            own = f"{match['module']}.weight" if match else key.removeprefix(PREFIX)
            own_names[own] = None
            if matches(own, ignore):
                continue
            if match:
                add_factor(sides, match, tensors[key], path)
            else:
                odd[own] = key
        if odd:
            verb = "are no LoRA factors" if len(odd) > 1 else "is no LoRA factor"
            remedy = option("ignore", list(odd), [f"{module}.weight" for module in sides], "leaves out what is not")
            raise UserError(
                f"{path}: {listed(list(odd.values()))} {verb}; form=lora takes plain LoRA adapters; {remedy}"
            )
        if kernels := [module for module, pair in sides.items() if any(factor.dim() > 2 for factor in pair.values())]:
            names = [f"{module}.weight" for module in kernels]
            others = [f"{module}.weight" for module in sides.keys() - set(kernels)]
            remedy = option("ignore", names, others, "leaves out convolutions")
            raise UserError(f"{path}: {listed(kernels)} is a convolution; form=lora takes linear layers; {remedy}")
        modules = {}
        for module, pair in sides.items():
            if not usable(pair):
                raise UserError(f"{path}: {module!r} needs two matrices, lora_A and lora_B; leave this adapter out")
            lora.check_rank(module, pair["B"], pair["A"])
            modules[module] = pair["B"], pair["A"], lora.scale(module)
        if not modules:
            raise UserError(f"{path}: nothing that it changes is left; leave this adapter out, or change ignore")
        initial = None
        if lora.initialization != "none":
            if base is None:
                raise UserError(
                    f"{path}: its initialization ({lora.initialization}) was taken from the base; give base=PATH too, "
                    "or save it again in PEFT with path_initial_model_for_weight_conversion"
                )
            initial = OnBase(path, tensors, base, ignore=ignore).subtracted
        return cls(path, config, modules, tuple(own_names), initial)

    def renamed(self, names: Mapping[str, str]) -> "Adapter":
        """The same adapter with other names of its modules: own name -> new name."""
        own, initial = {name: module for module, name in names.items()}, self.initial
        return replace(
            self,
            modules={names[module]: factors for module, factors in self.modules.items()},
            initial=initial and (lambda module: initial(own[module])),
        )

    def rank(self, module: str) -> int:
        """The rank of the change of a module's weight; 0 if there is none."""
        if module not in self.modules:
            return 0
        return self.modules[module][0].shape[1] * (1 if self.initial is None else 2)

    def factors(self, module: str, dtype: torch.dtype) -> LowRank:
        """The change of a module's weight as u (m, r), s (r,), vh (r, n), not orthonormal."""
        b, a, scale = self.modules[module]
        u, s, vh = b.to(dtype), torch.full((b.shape[1],), scale, dtype=dtype), a.to(dtype)
        if self.initial is not None and (taken := self.initial(module)) is not None:
            less = LowRank(*(part.to(dtype) for part in taken))
            u, s, vh = torch.cat([u, less.u], 1), torch.cat([s, -less.s]), torch.cat([vh, less.vh])
        return LowRank(u, s, vh)


class FactoredModel(ChangedModel):
    """An adapter in the form of a model: zeros of the shapes of `base` plus the adapter's products."""

    def __init__(self, adapter: Adapter, base: Mapping[str, Tensor]) -> None:
        super().__init__(adapter.path, base)
        self.adapter, self.own_names = adapter, adapter.own_names

    def factors(self, name: str, dtype: torch.dtype) -> LowRank:
        """The change of a weight as u (m, r), s (r,), vh (r, n), not orthonormal; r = 0 if there is none."""
        module = name.removesuffix(".weight")
        return self.adapter.factors(module, dtype) if module in self.adapter.modules else self._no_change(name, dtype)

    def inputs_first(self, name: str) -> bool | None:
        """False: the weights have the shapes (out, in) of modules; None if there is no change.

        Raises:
            UserError: the adapter's initialization changed the base.
        """
        module = name.removesuffix(".weight")
        if module not in self.adapter.modules:
            return None
        if self.adapter.initial is not None:
            raise self._no_b(name, "the adapter's initialization changed the base")
        return False

    def delta(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """The change of a weight in `dtype`, or None if there is none."""
        return self.factors(name, dtype).dense() if name.removesuffix(".weight") in self.adapter.modules else None

    def __getitem__(self, name: str) -> Tensor:
        return self.factors(name, torch.float32).dense()


def aligned(adapters: Mapping[str, Adapter]) -> dict[str, Adapter]:
    """The adapters with modules named as in the first one, without wrappers: names may differ by a prefix (GPT-2's)."""
    known: dict[str, None] = {}
    found = {}
    for task, adapter in adapters.items():
        own = {module: bare(module) for module in adapter.modules}
        names = align_names(list(known), list(own.values()), f"model {task!r}")
        found[task] = adapter.renamed({module: names[name] for module, name in own.items()})
        known |= dict.fromkeys(found[task].modules)
    return found


def stand_in(adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """Zeros that use no memory, as a base: one <module>.weight (out, in) for each weight that the adapters change.

    Raises:
        UserError: a module has different shapes in two adapters, or two adapters share neither a module nor the name
            of their base.
    """
    base: dict[str, Tensor] = {}
    named: set[str] = set()
    for task, adapter in adapters.items():
        shared = any(f"{module}.weight" in base for module in adapter.modules)
        named_base = base_of(adapter.path)
        if base and not shared and named_base not in named:
            raise UserError(
                f"model {task!r} ({adapter.path}) changes no module that the adapters before it change "
                f"({next(iter(adapter.modules), 'none')}, ...), and names another base; they belong to different models"
            )
        named |= {named_base} - {""}
        for module, (b, a, _) in adapter.modules.items():
            shape, name = torch.Size((b.shape[0], a.shape[1])), f"{module}.weight"
            if base.setdefault(name, torch.zeros(()).expand(shape)).shape != shape:
                raise UserError(
                    f"model {task!r} ({adapter.path}) changes {module!r} of shape {tuple(shape)}, the adapters before "
                    f"it {tuple(base[name].shape)}; they belong to different models"
                )
    return base
