"""The report as one self-contained HTML page."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from tsv_exp.report.plots.pictures import Picture
from tsv_exp.report.results.runs import Experiment, Problem, Runs
from tsv_exp.report.tables.sheets import Sheet


def render(
    title: str,
    summary: str,
    sheets: Sequence[Sheet],
    pictures: Sequence[Picture],
    problems: Sequence[Problem] = (),
    experiments: Sequence[Experiment] = (),
) -> str:
    """Render the page: what the runs are called, sections with tables and plots, and the runs without results."""
    environment = Environment(loader=PackageLoader("tsv_exp.report", "."), autoescape=True)
    # plots over several task sets come first
    titles = dict.fromkeys([*(picture.section for picture in pictures), *(sheet.section for sheet in sheets)])
    sections = [
        (title, [s for s in sheets if s.section == title], [p for p in pictures if p.section == title])
        for title in titles
    ]
    script = files("tsv_exp.report").joinpath("page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        title=title,
        summary=summary,
        experiments=experiments,
        problems=problems,
        sections=sections,
        script=Markup(script),
        policy=_policy(script),
    )


def _policy(script: str) -> str:
    """The content security policy of the page: only our script runs, and nothing is loaded from the network."""
    own = b64encode(sha256(script.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{own}'; style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def title_of(runs: Runs) -> str:
    """The title of a report of these runs."""
    models = dict.fromkeys(cell.model for cell in runs.finished)
    names = {cell.words.name for cell in runs.finished}
    title = f"Merging results: {', '.join(models)}" if models else "Merging results"
    return f"{title} ({names.pop()})" if len(names) == 1 and any(names) else title
