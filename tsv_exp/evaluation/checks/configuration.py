"""Checks of a configuration that need no weights and no data, made before a run or a sweep starts.

What is wrong without torch is found without its import, in a fraction of a second.
"""

import json
from functools import cache

from hydra.utils import instantiate
from omegaconf import DictConfig

from tsv_exp.arguments import check_nodes
from tsv_exp.config import Engine, Evaluate, check_device, plain_values
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
    plain = plain_values(cfg)
    if not -SEEDS <= cfg.seed < SEEDS:
        raise UserError(f"seed={cfg.seed}: give a number of at most 63 bits")
    check_device(cfg.device)
    for group in ("alpha", "tracking"):
        _check_group(group, json.dumps(plain[group]))
    Engine(**plain["engine"])
    Evaluate(**plain["evaluate"])
    tasks = selected(plain)
    import_late("tsv_exp.evaluation.checks.model").check(plain, tasks, here)


@cache
def _check_group(group: str, node: str) -> None:
    """Make what a group of the configuration names, once for all jobs of a sweep that have the same."""
    check_nodes(group, json.loads(node))
    instantiate(json.loads(node))
