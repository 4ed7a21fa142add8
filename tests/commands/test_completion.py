"""Tab completion of tsv-merge and tsv-report, asked for as that of Hydra's applications."""

from contextlib import suppress
from pathlib import Path

import pytest

from tsv_exp.commands import merge, report
from tsv_exp.commands.app.completion import SHELLS, complete
from tsv_exp.errors import UserError
from tsv_exp.merge_files.options.help import words


def asked(line: str, main: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr("sys.argv", [line.split()[0], "-sc", "query=bash"])
    with suppress(SystemExit):
        main()  # type: ignore[operator]
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tsv-merge method=tsv_", {"method=tsv_c", "method=tsv_m"}),
        ("tsv-merge base=a f", {"form=model", "form=lora"}),
        ("tsv-merge method=ties den", {"density="}),
        ("tsv-merge rank_", {"rank_fraction="}),
        ("tsv-merge --config", {"--config-dir", "--config-name"}),
    ],
)
def test_options_methods_and_their_parameters(
    line: str, expected: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(line, merge.main, capsys, monkeypatch)
    assert expected <= set(found)
    assert all(word.startswith(line.split()[-1]) for word in found)


def test_methods_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("defaults: [ties, _self_]\nname: mine\nsharpness: 1\n")
    found = words(["--config-dir", str(tmp_path), "method=mine"])
    assert {"method=mine", "sharpness=", "density=", "out="} <= set(found)
    assert not [word for word in found if word.startswith(("_target_", "layers=all"))]


def test_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked("tsv-report x --p", report.main, capsys, monkeypatch) == ["--published", "--paired"]
    assert "paper" in asked("tsv-report x --published ", report.main, capsys, monkeypatch)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell(shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/tsv-merge"])
    complete(["-sc", f"install={shell}"], words)
    assert "tsv-merge" in capsys.readouterr().out


def test_another_shell_is_refused() -> None:
    with pytest.raises(UserError, match="give install, uninstall or query"):
        complete(["-sc", "install=tcsh"], words)
