"""Checks of a configuration that need no weights and no data, made before a run or a sweep starts.

What is wrong without torch is found without its import, in a fraction of a second.
"""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tsv_exp.arguments import check_nodes
from tsv_exp.config import Engine, Evaluate, check_device
from tsv_exp.errors import UserError
from tsv_exp.runtime.imports import import_late
from tsv_exp.tasks.definitions import selected

SEEDS = 2**63  # largest seed of torch's generators


def check_configuration(cfg: DictConfig, here: bool = True) -> None:
    """Check the configuration of a run; nothing is read, downloaded, trained or written.

    Args:
        cfg: the configuration of one run.
        here: whether the run executes on this machine, so that its devices and paths are checked too.

    Raises:
        UserError: a value is invalid.
    """
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain: Any = OmegaConf.to_container(own, resolve=True)
    if not -SEEDS <= cfg.seed < SEEDS:
        raise UserError(f"seed={cfg.seed}: give a number of at most 63 bits")
    check_device(cfg.device)
    for group in ("alpha", "tracking"):
        check_nodes(group, plain[group])
        instantiate(cfg[group])
    Engine(**plain["engine"])
    Evaluate(**plain["evaluate"])
    tasks = selected(cfg)
    import_late("tsv_exp.evaluation.checks.model").check(plain, tasks, here)
