"""What a tracker does, and the run that is tracked by none."""

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
    """A run as it is opened.

    `kind` is run, report (of a sweep) or analysis; `group` is the sweep, None for a single run; `folder` takes files.
    """

    name: str
    kind: str
    folder: Path
    group: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


class OpenRun:
    """A run that is tracked while it is under way; this one is not tracked."""

    @property
    def reference(self) -> str | None:
        """What results.json says of where the run is tracked."""
        return None

    def stage(self, name: str) -> None:
        """The run has come to load, merge, select or test."""

    def point(self, point: Mapping[str, Any]) -> None:
        """Accuracies at one α, as results.json holds them, while the curve is measured."""

    def results(self, results: Mapping[str, Any], folder: Path) -> None:
        """The content of results.json, which lies in `folder` with table.md."""

    def report(self, report: "Report", reused: Sequence[Mapping[str, Any]]) -> None:
        """Tables, pictures and page of a sweep or an analysis, and the results that the sweep took over."""

    def close(self, exit_code: int) -> None:
        """The end: 0 if all that was asked for was done."""


class Tracker(Protocol):
    """conf/tracking."""

    def open(self, description: Description) -> OpenRun:
        """Begin to track."""
        ...


@dataclass(frozen=True)
class NoTracker:
    """No tracking (tracking=none)."""

    def open(self, description: Description) -> OpenRun:
        """A run that is not tracked."""
        return OpenRun()


class Harmless(OpenRun):
    """An open run in which whatever goes wrong is one line of warning; after the first there are no more calls."""

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
        except Exception as error:  # noqa: BLE001  (whatever a service does, the results on disk stand)
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("tracking: %s was not tracked: %s", self._what, reason)
            return otherwise


def needs(package: str) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        UserError: it is not.
    """
    if find_spec(package) is None:
        raise UserError(f"tracking={package}: it is not installed; pip install 'tsv_exp[{package}]'")
