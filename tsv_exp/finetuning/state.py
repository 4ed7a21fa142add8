"""The state of a training run on disk: a killed run resumes from it, with the same result."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from tsv_exp.errors import UserError
from tsv_exp.storage.files import atomic


@dataclass(frozen=True)
class TrainingState:
    """A file with step, parameters and optimizer; `key` is the digest of everything that the run depends on.

    If `path` is None, nothing is saved.
    """

    path: Path | None
    key: str

    def store(
        self, step: int, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, scaler: GradScaler
    ) -> None:
        """Save the state after `step` steps."""
        if self.path is None:
            return
        content = {
            "key": self.key,
            "step": step,
            "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
        }
        with atomic(self.path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)  # torch.save to a path would raise RuntimeError on a full disk

    def restore(self, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, scaler: GradScaler) -> int:
        """Restore the saved state and return the number of finished steps; 0 if there is no file.

        Raises:
            UserError: the file is damaged, or belongs to a different training run.
        """
        if self.path is None or not self.path.exists():
            return 0
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, LookupError, pickle.UnpicklingError) as error:
            raise UserError(f"{self.path}: damaged; delete the file to start over") from error
        if content.get("key") != self.key:
            raise UserError(f"{self.path}: saved with other settings; restore those, or delete the file to start over")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(content["parameters"][name])
        optimizer.load_state_dict(content["optimizer"])
        scaler.load_state_dict(content["scaler"])
        return int(content["step"])
