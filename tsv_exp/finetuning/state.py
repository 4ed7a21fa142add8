"""The state of a training on disk: after a kill it goes on where it was, with the same result."""

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
    """A file with step, parameters and optimizer; `key` is the digest of all that the training depends on.

    Where `path` is None nothing is kept.
    """

    path: Path | None
    key: str

    def store(
        self, step: int, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, scaler: GradScaler
    ) -> None:
        """Write the state after `step` steps."""
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
            torch.save(content, file)  # given a path, a full disk would be a RuntimeError

    def restore(self, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, scaler: GradScaler) -> int:
        """Set everything as it was, and return how many steps were taken; 0 where there is no file.

        Raises:
            UserError: the file is damaged, or of another training.
        """
        if self.path is None or not self.path.exists():
            return 0
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, LookupError, pickle.UnpicklingError) as error:
            raise UserError(f"{self.path}: damaged; delete it to start over") from error
        if content.get("key") != self.key:
            raise UserError(
                f"{self.path}: of a training with other settings; restore those, or delete it to start over"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(content["parameters"][name])
        optimizer.load_state_dict(content["optimizer"])
        scaler.load_state_dict(content["scaler"])
        return int(content["step"])
