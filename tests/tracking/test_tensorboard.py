"""TensorBoard: its event files are read back."""

from pathlib import Path
from typing import Any

import pytest
from synthetic import results, write_run

from tsv_exp.report.write import write_report
from tsv_exp.tracking.protocol import Description
from tsv_exp.tracking.tensorboard import TensorBoardTracker

GIVEN = results(curve={0.5: 0.7, 1.0: 0.8})


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = {path.parent for path in folder.glob("tensorboard/**/events*")}
    return EventAccumulator(str(place)).Reload()


def scalars(events: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def text(events: Any, tag: str) -> str:
    (event,) = events.Tensors(f"{tag}/text_summary")
    return str(event.tensor_proto.string_val[0].decode())


def test_a_run_is_read_back(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", GIVEN)
    about = Description("tsv_m T=4", "run", folder, tags=["draft"], notes="a try", config={"seed": 0})
    run = TensorBoardTracker().open(about)
    run.stage("merge")
    for point in GIVEN["validation"]:
        run.point(point)
    run.results(GIVEN, folder)
    run.close(0)
    assert run.reference == str(folder / "tensorboard" / "tsv_m-T-4")
    events = read(folder)
    assert scalars(events, "validation/mean_normalized")[:2] == [(500, 0.7), (1000, 0.8)]
    assert scalars(events, "test/mean_accuracy") == [(0, 0.75)]
    assert scalars(events, "exit_code") == [(0, 0.0)]
    assert (text(events, "stage"), text(events, "tags"), text(events, "notes")) == ("merge", "draft", "a try")
    assert text(events, "status") == "ok"
    assert {tag for tag in events.Tags()["images"] if tag.startswith("report/average")}
    tables = [tag for tag in events.Tags()["tensors"] if tag.startswith("table/")]
    assert "| tsv_m | 90.0 | 80.0 | 70.0 | 60.0 | 75.0 |" in text(events, tables[0].removesuffix("/text_summary"))


def test_a_report_has_tables_and_pictures(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    write_run(sweep / "0", GIVEN)
    run = TensorBoardTracker().open(Description("report", "report", sweep, "sweep-1"))
    run.report(write_report([sweep], sweep), [{"method": "tsv_m", "tracked": None, "reused_from": "there"}])
    run.close(1)
    events = read(sweep)
    assert events.Tags()["images"]
    assert "| tsv_m |  | there |" in text(events, "reused")
    assert scalars(events, "exit_code") == [(0, 1.0)]
