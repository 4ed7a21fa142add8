"""The tracker protocol, and runs without tracking."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tsv_exp.errors import UserError

if TYPE_CHECKING:
    from tsv_exp.report.write import Report

log = logging.getLogger(__name__)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Description:
    """The description of a run when tracking starts.

    `kind` is run, report (of a sweep) or analysis; `group` is the sweep, None for a single run; `folder` is for files.
    """

    name: str
    kind: str
    folder: Path
    group: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


class OpenRun:
    """A tracked run in progress; this base class tracks nothing."""

    @property
    def reference(self) -> str | None:
        """Where the run is tracked, for results.json."""
        return None

    def stage(self, name: str) -> None:
        """Report that a stage starts: load, merge, select or test."""

    def point(self, point: Mapping[str, Any]) -> None:
        """Report accuracies at one α, in the format of results.json, while the curve is measured."""

    def results(self, results: Mapping[str, Any], folder: Path) -> None:
        """Report the content of results.json; `folder` contains it and table.md."""

    def report(self, report: "Report", reused: Sequence[Mapping[str, Any]]) -> None:
        """Report the tables, plots and page of a sweep or an analysis, and the results that a sweep reused."""

    def close(self, exit_code: int) -> None:
        """End tracking; the exit code is 0 on success."""


class Tracker(Protocol):
    """conf/tracking."""

    def open(self, description: Description) -> OpenRun:
        """Start tracking."""
        ...


@dataclass(frozen=True)
class NoTracker:
    """No tracking (tracking=none)."""

    def open(self, description: Description) -> OpenRun:
        """Return a run that is not tracked."""
        return OpenRun()


class FailsafeRun(OpenRun):
    """Wraps an open run: the first failure is logged as one warning and ends the tracking."""

    def __init__(self, tracker: Tracker, description: Description):
        self._what = f"the {description.kind} in {description.folder}"
        self._run: OpenRun = OpenRun()
        self._run = self._try(lambda: tracker.open(description), OpenRun())

    @property
    def reference(self) -> str | None:
        """See `OpenRun`, as with all below."""
        return self._try(lambda: self._run.reference, None)

    def stage(self, name: str) -> None:  # noqa: D102
        self._try(lambda: self._run.stage(name), None)

    def point(self, point: Mapping[str, Any]) -> None:  # noqa: D102
        self._try(lambda: self._run.point(point), None)

    def results(self, results: Mapping[str, Any], folder: Path) -> None:  # noqa: D102
        self._try(lambda: self._run.results(results, folder), None)

    def report(self, report: "Report", reused: Sequence[Mapping[str, Any]]) -> None:  # noqa: D102
        self._try(lambda: self._run.report(report, reused), None)

    def close(self, exit_code: int) -> None:  # noqa: D102
        self._try(lambda: self._run.close(exit_code), None)

    def _try(self, action: Callable[[], Made], otherwise: Made) -> Made:
        try:
            return action()
        except Exception as error:  # noqa: BLE001  (a tracker's failure must not affect the results on disk)
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("tracking: %s was not tracked: %s", self._what, reason)
            return otherwise


def needs(package: str) -> None:
    """Check that a tracker's package is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec(package) is None:
        raise UserError(f"tracking={package}: it is not installed; pip install 'tsv_exp[{package}]'")
