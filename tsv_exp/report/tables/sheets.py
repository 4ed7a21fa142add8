"""Tables as text: headings, lines of entries, a legend. All output formats render these sheets."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from tsv_exp.report.results.bases import most_common
from tsv_exp.report.results.published import alpha_remark
from tsv_exp.report.tables.groups import Estimate, Group, Row, columns

MISSING = "–"
EDGE = "†"  # marks an α at an end of its grid
AT_EDGE = f"{EDGE}: the end of the grid of α, beyond which a better value may lie (alpha.stop=, alpha.steps=)."
ROUTED = "A method followed by + and a router does not know the task of an example: the router chooses model and head."
AVERAGES = 4  # the columns of a group after its tasks: average, normalized, α, size


@dataclass(frozen=True)
class Entry:
    """A table entry: text, place among the column's single merged models (1, 2, else 0), value to sort by."""

    text: str
    place: int = 0
    value: float | None = None


@dataclass(frozen=True)
class Line:
    """A table row, with an optional note."""

    label: str
    entries: tuple[Entry, ...]
    note: str = ""

    @property
    def only_note(self) -> bool:
        """Whether the row consists only of its note."""
        return bool(self.note) and all(entry.text == MISSING for entry in self.entries)


@dataclass(frozen=True)
class Sheet:
    """A table: `headings` of the entries, `first` is the heading of the labels; `section` is its place in the page.

    If space is short, the last `least` columns have priority.
    """

    section: str
    title: str
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    legend: str
    least: int
    sortable: bool = True
    first: str = "method"


def percent(estimate: Estimate | None) -> str:
    """A fraction in percent, with its spread if known: 85.86 ± 0.21."""
    if estimate is None:
        return MISSING
    value = f"{100 * estimate.mean:.2f}"
    return value if estimate.spread is None else f"{value} ± {100 * estimate.spread:.2f}"


def alpha_range(row: Row) -> str:
    """The α of the row, or their range over seeds."""
    return "–".join(dict.fromkeys(f"{value:.3g}" for value in (*row.alphas[:1], *row.alphas[-1:]))) or MISSING


def alpha(row: Row) -> str:
    """The same, marked if an α was chosen at an end of its grid."""
    return alpha_range(row) + f" {EDGE}" * row.at_edge


def size(row: Row) -> str:
    """Stored size in percent of one full checkpoint per task."""
    return MISSING if row.size is None else f"{100 * row.size:.1f} %"


def note(row: Row) -> str:
    """Why there are no results, or the number of seeds."""
    return f"{row.status}: {row.error}" if row.error else f"seeds: {len(row.cells)}"


def group_sheet(group: Group) -> Sheet:
    """The paper's table: methods by tasks, both averages, α, stored size."""
    figures = columns(group)
    counts = {len(row.cells) for row in group.rows if row.cells}
    places = [group.places(figure) for _, figure in figures]
    lines = []
    for row in group.rows:
        values = [figure(row) for _, figure in figures]
        entries = [
            Entry(percent(value), place.get(row.label, 0), value.mean if value else None)
            for value, place in zip(values, places, strict=True)
        ]
        last = Entry(alpha(row), value=row.alphas[0] if row.alphas else None), Entry(size(row), value=row.size)
        lines.append(Line(row.label, (*entries, *last), note(row) if row.error or len(counts) > 1 else ""))
    headings = (*(heading for heading, _ in figures), "α", "size")
    remarks = alpha_remark(group.family), AT_EDGE if any(row.at_edge for row in group.rows) else ""
    routed = ROUTED if any(row.routed for row in group.rows) else ""
    explanation = " ".join(filter(None, [legend(counts, _usual_policy(group)), *remarks, routed]))
    return Sheet(group.title, group.title, headings, tuple(lines), explanation, least=AVERAGES)


def overview_sheets(groups: Sequence[Group]) -> list[Sheet]:
    """One sheet per model with several task sets: methods by task sets, absolute and (normalized) average."""
    sources: dict[str, list[Group]] = {}
    for group in groups:
        sources.setdefault(group.source, []).append(group)
    return [_overview(source, members) for source, members in sources.items() if len(members) > 1]


def _overview(source: str, groups: Sequence[Group]) -> Sheet:
    groups = sorted(groups, key=lambda group: len(group.tasks))
    labels = dict.fromkeys(row.label for group in groups for row in group.rows)
    places = [group.places(lambda row: row.average) for group in groups]
    rows = [{row.label: row for row in group.rows} for group in groups]
    lines = []
    for label in labels:
        entries = [_both(known.get(label), place.get(label, 0)) for known, place in zip(rows, places, strict=True)]
        lines.append(Line(label, tuple(entries)))
    headings = tuple(group.task_set for group in groups)
    explanation = (
        "Average test accuracy over the tasks in percent, and in parentheses relative to the fine-tuned models. "
        "Best single merged model bold, second underlined."
    )
    return Sheet(source, f"{source}, by number of tasks", headings, tuple(lines), explanation, least=len(groups))


def _both(row: Row | None, place: int) -> Entry:
    if row is None:
        return Entry("missing")
    if row.average is None or row.normalized is None:
        return Entry(row.status)
    return Entry(f"{100 * row.average.mean:.2f} ({100 * row.normalized.mean:.2f})", place, row.average.mean)


def _usual_policy(group: Group) -> str:
    """How most rows found α, if recorded and if one way is most common."""
    found = [cell.choice.get("α by") for row in group.rows for cell in row.cells[:1] if cell.protocol and cell.choice]
    usual = most_common(found)
    return str(usual[0]) if usual and usual[0] else ""


def legend(counts: Set[int], policy: str = "") -> str:
    """The legend of a group's table, for these numbers of seeds and this usual way to find α."""
    found = f", found by {policy} unless its row says otherwise" if policy else ""
    spread = "binomial standard error over the test examples"
    if counts > {1}:
        spread = f"standard deviation over seeds where there are several, else the {spread}"
    elif max(counts, default=1) > 1:
        spread = f"standard deviation over {'–'.join(map(str, sorted(counts)))} seeds"
    return (
        f"Test accuracy in percent; ± is the {spread}. Normalized: relative to each task's fine-tuned model. "
        f"α: scaling of the merged task vector{found}. Size: what is stored to serve all tasks, relative to one full "
        "checkpoint per task. Best single merged model bold, second underlined."
    )
