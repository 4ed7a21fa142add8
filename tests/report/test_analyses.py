"""What tsv-analyze writes, read back into a report without torch."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from models import zoo

from tsv_exp.analyze.analysis import analyze
from tsv_exp.analyze.write import write_analysis
from tsv_exp.report.analyses import read_analysis
from tsv_exp.report.write import write_report


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    base, finetuned = zoo(3)
    folder = tmp_path_factory.mktemp("analyses") / "first"
    return folder, write_analysis(analyze(base, finetuned), [], folder, "toy")


def test_tables_and_pictures_come_back_as_they_were(written):
    folder, report = written
    shown = read_analysis(folder)
    assert [(s.title, s.headings, s.lines, s.legend) for s in shown.sheets] == [
        (s.title, s.headings, s.lines, s.legend) for s in report.sheets
    ]
    assert {path for picture in shown.pictures for path in picture.paths} == {
        path for path in report.paths if path.parent.name == "plots"
    }


def test_a_report_of_analyses_alone_has_them_side_by_side(written, tmp_path):
    folder, _ = written
    for name in ("one", "two"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / ".hydra").mkdir()
    report = write_report([tmp_path], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Interference: toy (one)" in page
    assert "Interference: toy (two)" in page
    identifiers = re.findall(r' id="([^"]+)"', page)
    referred = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert referred
    assert all(identifiers.count(first or second) == 1 for first, second in referred)
    assert not report.runs.problems
    assert report.runs.summary == "0 finished runs, 2 analyses"


def test_a_damaged_analysis_costs_only_itself(written, tmp_path):
    folder, _ = written
    shutil.copytree(folder, tmp_path / "good")
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad" / "analysis.json").write_text(json.dumps({"page": {}}))
    report = write_report([tmp_path], tmp_path / "report")
    assert [problem.folder.name for problem in report.runs.problems] == ["bad"]
    assert "Interference: toy (good)" in (tmp_path / "report" / "report.html").read_text()


def test_no_torch_is_needed(written, tmp_path):
    folder, _ = written
    program = (
        "import sys; from tsv_exp.commands.report import main; "
        f"code = main([{str(folder)!r}, '--out', {str(tmp_path)!r}]); sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
