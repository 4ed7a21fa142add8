"""The report on disk, its page, and the command."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import TASKS, failed, results, write_run

from tsv_exp.commands.report import main
from tsv_exp.report.write import Report, write_report


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    write_run(folder / "0", results("ties", (0.6, 0.7, 0.5, 0.4)))
    write_run(folder / "1", results("tsv_m"))
    write_run(folder / "2", failed("tsv_c", "no <memory> left"))
    write_run(folder / "3", results("tsv_m", (0.8, 0.9), tasks=TASKS[:2]))
    write_run(folder / "4", "{")
    return folder


@pytest.fixture(scope="module")
def report(sweep: Path) -> Report:
    return write_report([sweep], sweep.parent / "out")


class Reader(HTMLParser):
    """Collects what a page shows and what it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.identifiers: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "path", "use", "image"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        values = {name: value or "" for name, value in attributes}
        self.links += [values[name] for name in ("href", "src", "xlink:href") if name in values]
        self.identifiers += [values["id"]] if "id" in values else []

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use", "image"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_the_page_is_whole_and_self_contained(sweep: Path, report: Report) -> None:
    assert report.paths[0].name == "report.html"
    text = report.paths[0].read_text(encoding="utf-8")
    page = Reader()
    page.feed(text)
    assert page.open == []
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.identifiers)
    assert len(page.identifiers) == len(set(page.identifiers))
    assert "@import" not in text
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text).replace('http-equiv="Content-Security-Policy"', "")
    for expected in ("75.00 ± 1.23", "failed: no <memory> left", "missing", str(sweep / "4")):
        assert expected in page.cells
    assert any("results.json cannot be read" in cell for cell in page.cells)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert text.count('role="img"') == sum(path.suffix == ".svg" for path in report.paths)


def test_everything_named_is_there(sweep: Path, report: Report) -> None:
    out = sweep.parent / "out"
    names = {path.relative_to(out).as_posix() for path in report.paths}
    expected = {"report.html", "table.md", "table.csv", "table.tex", "report.json", "plots/average-tiny-4-tasks.png"}
    assert expected <= names
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == names


def test_names_tags_and_notes_are_at_the_top(tmp_path: Path) -> None:
    for number, method in enumerate(("ties", "tsv_m")):
        write_run(tmp_path / str(number), results(method, name="first look", tags=["draft"], notes="with <one> seed"))
    write_run(tmp_path / "2", results("tsv_c", name="first look"))
    out = write_report([tmp_path], tmp_path / "out").paths[0].parent
    line = "first look; tags: draft; with <one> seed (2 runs)"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"<li>{line.replace('<', '&lt;').replace('>', '&gt;')}</li>" in page
    assert "<h1>Merging results: tiny (first look)</h1>" in page
    assert (out / "table.md").read_text(encoding="utf-8").startswith(f"- {line}\n- first look (1 run)\n\n## ")
    said = json.loads((out / "report.json").read_text(encoding="utf-8"))["experiments"]
    assert said[0] == {"name": "first look", "tags": ["draft"], "notes": "with <one> seed", "runs": 2}


def test_a_report_made_again_is_the_same(sweep: Path, report: Report) -> None:
    first = {path: path.read_bytes() for path in report.paths}
    # the report lies among its runs, as a sweep's does
    again = write_report([sweep.parent], sweep.parent / "out")
    assert {path: path.read_bytes() for path in again.paths} == first


def test_the_command_says_what_it_wrote(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "75.00 ± 1.23" in out
    assert "3 finished runs, 2 without results" in out
    assert f"Look at {tmp_path / 'out' / 'report.html'}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "no runs (results.json or .hydra) below empty"),
        (["sweep", "--published", "hub"], "--published hub: no published results for tiny"),
        (["x", "--published", "nobody"], "choose from"),
        (["x", "--publishd", "paper"], "unrecognized arguments: --publishd paper; tsv-report --help"),
        ([], "the following arguments are required: DIR"),
        (["sweep", "--out", "sweep/0/results.json"], "cannot write sweep/0/results.json"),
    ],
)
def test_bad_input_is_one_line_and_no_success(
    sweep: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(sweep.parent)
    Path("empty").mkdir(exist_ok=True)
    assert main(arguments) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert message in streams.err
    assert streams.err.count("\n") == 1


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tsv_exp.commands.report.write_report", interrupt)
    assert main(["x"]) == 130
    assert capsys.readouterr().err.startswith("tsv-report: interrupted")


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def with_script(report: Report, script: str, allowed: bool) -> str:
    """The page with one more script, which its policy allows or not."""
    text = report.paths[0].read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
    own = b64encode(sha256(script.encode()).digest()).decode()
    assert "script-src " in text
    return text.replace("script-src ", f"script-src &#39;sha256-{own}&#39; ") if allowed else text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium (Debian's package chromium) to open the page with")
def test_a_browser_runs_no_script_but_the_page_s_own(report: Report, tmp_path: Path) -> None:
    titles = []
    for allowed in (True, False):
        page = tmp_path / f"{allowed}.html"
        page.write_text(with_script(report, "document.title = 'ran';", allowed), encoding="utf-8")
        command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        titles += re.findall(r"<title>(.*?)</title>", done.stdout)[:1]
    assert titles == ["ran", "Merging results: tiny"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium (Debian's package chromium) to open the page with")
def test_a_browser_shows_the_page_and_sorts_its_tables(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    probe = """
    const shown = {};
    const table = [...document.querySelectorAll("table.sortable")].find(t => t.tHead.textContent.includes("Clock"));
    const head = [...table.tHead.rows[0].cells].find(th => th.textContent === "Clock");
    const order = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join();
    shown.before = order();
    head.querySelector("button").click();
    shown.descending = order() + head.getAttribute("aria-sort");
    head.querySelector("button").click();
    shown.ascending = order() + head.getAttribute("aria-sort");
    table.tHead.rows[0].cells[0].querySelector("button").click();
    shown.names = order();
    shown.overflow = document.documentElement.scrollWidth > document.documentElement.clientWidth;
    const all = [...document.querySelectorAll("svg")].map(s => [s, s.getBoundingClientRect()]);
    const pictures = all.filter(([_, r]) => r.height);
    shown.pictures = Math.min(...pictures.map(([_, r]) => r.height));
    shown.kinds = [...new Set(pictures.map(([s, _]) => s.getAttribute("class")))].join();
    shown.right = Math.max(...pictures.map(([_, r]) => r.right)) <= innerWidth;
    const texts = pictures.flatMap(([s, _]) => [...s.querySelectorAll("text")]);
    const letters = texts.map(t => t.getBoundingClientRect().height);
    shown.readable = Math.min(...letters.filter(h => h)) > 8;
    shown.paper = getComputedStyle(document.body).backgroundColor;
    document.title = JSON.stringify(shown);
    """
    page.write_text(with_script(report, probe, allowed=True), encoding="utf-8")
    shown = {}
    for scheme, paper in (("light", 1), ("dark", 0)):
        command = [
            str(BROWSER),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / scheme}",
        ]
        command += [
            f"--blink-settings=preferredColorScheme={paper}",
            "--window-size=500,800",
            "--dump-dom",
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        title = re.search(r"<title>(.*?)</title>", done.stdout)
        assert title is not None
        shown[scheme] = json.loads(title[1])
    light = shown["light"]
    assert light["before"] == "ties,tsv_m,tsv_c"
    assert light["descending"] == "tsv_m,ties,tsv_cdescending"  # the failed row stays below
    assert light["ascending"] == "ties,tsv_m,tsv_cascending"
    assert light["names"] == "ties,tsv_c,tsv_m"
    assert light["overflow"] is False
    assert light["pictures"] > 100
    assert light["kinds"] == "narrow"
    assert light["right"] is True
    assert light["readable"] is True
    assert light["paper"] == "rgb(255, 255, 255)"
    assert shown["dark"]["paper"] == "rgb(21, 24, 28)"
