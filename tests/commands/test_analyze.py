"""The command on checkpoint files: what it writes, and what it says when it cannot."""

import csv
import io
import json
import os
from itertools import combinations
from pathlib import Path

import forked
import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from models import zoo
from rich.console import Console
from safetensors.torch import save_file

from tsv_exp.analyze import plots, tables
from tsv_exp.analyze.analysis import analyze, propose
from tsv_exp.analyze.write import write_analysis
from tsv_exp.commands.analysis import run, weights
from tsv_exp.config import Engine, conf_dir
from tsv_exp.report.plots.style import readable_on, styled
from tsv_exp.report.tables.formats.markup import latex
from tsv_exp.report.tables.formats.terminal import show

ODD = ["task0", "[x]: ü", "$a_b$, <c>"]  # names that other grammars would read differently


def command(*words):
    return forked.command("analyze", *words, cwd=Path.cwd(), env=os.environ)


@pytest.fixture
def files(tmp_path):
    base, finetuned = zoo(3, torch.float32)
    for name, model in {"base": base, **finetuned}.items():
        save_file(model, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_any_checkpoints(files):
    models = ",".join(f"'{name}': {files}/task{i}.safetensors" for i, name in enumerate(ODD))
    words = [f"base={files}/base.safetensors", f"models={{{models}}}", "select=2", f"paths.outputs={files}/out"]
    done = command(*words, "engine.cache=off")
    assert done.returncode == 0, done.stderr
    assert "Least interference among 3 choices: " in done.stdout
    (folder,) = (files / "out" / "analyze").iterdir()
    found = json.loads((folder / "analysis.json").read_text())
    base, finetuned = zoo(3, torch.float32)
    expected = analyze(base, dict(zip(ODD, finetuned.values(), strict=True)), together=2)
    assert found["tasks"] == ODD
    logged = (folder / "tsv-analyze.log").read_text()
    assert all(line in logged for line in done.stdout.splitlines()[:2])
    assert found["interference"] == pytest.approx(expected.interference, rel=1e-3)
    assert tuple(found["selected"]) == propose(expected, 2)[0].tasks
    assert "<svg" in (folder / "analysis.html").read_text()
    assert {path.name for path in (folder / "plots").iterdir()} == {
        f"{name}{kind}"
        for name in ("interference-by-layer", "layers-by-tasks", "spectra", "pairs")
        for kind in (".png", ".svg", "-narrow.svg")
    }


def test_a_single_model_needs_no_list_and_can_be_drawn(files):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        words = [f"base={files}/base.safetensors", f"models={files}/task1.safetensors", "engine.cache=off"]
        report = run(compose("analyze", words), files / "out")
    assert "<p>1 task (task1), " in report.paths[0].read_text().replace("\n", "")
    assert any("spectra.png" in path.name for path in report.paths)
    assert report.sheets[0].lines


def test_a_state_dict_with_the_names_in_memory(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=4, patch_size=2))
    model.save_pretrained(tmp_path / "base")
    torch.save({name: weight + 0.1 for name, weight in model.state_dict().items()}, tmp_path / "a.pt")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        words = [f"base={tmp_path}/base", f"models={tmp_path}/a.pt", "engine.cache=off"]
        _, base, finetuned, _ = weights(compose("analyze", words), Engine())
    assert len(base) == len(model.state_dict())
    for name in base:
        torch.testing.assert_close(finetuned["a"][name], base[name] + 0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base=nowhere.safetensors", "models=[a.pt]"], "nowhere.safetensors"),
        (["models=[a.pt]"], "base and models belong together"),
        (["tsks=8"], "tsks: there is no such key; did you mean tasks?"),
    ],
)
def test_one_clear_line_where_it_cannot(words, message, tmp_path):
    done = command(*words, f"paths.outputs={tmp_path}")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("tsv-analyze: ")
    assert message in line


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_tables_hold_the_measures(tmp_path):
    base, finetuned = zoo(3)
    analysis = analyze(base, finetuned)
    report = write_analysis(analysis, [], tmp_path, "zoo")
    rows = rows_of(tmp_path / "layers.csv")
    assert {row["layer"]: float(row["STI"]) for row in rows} == pytest.approx(
        {layer.name: layer.interference for layer in analysis.layers}
    )
    spectra = rows_of(tmp_path / "spectra.csv")
    assert len(spectra) == sum(layer.spectra.numel() for layer in analysis.layers)
    tasks = rows_of(tmp_path / "tasks.csv")
    assert len(tasks) == 3 * len(analysis.layers)
    pairs = rows_of(tmp_path / "pairs.csv")
    assert [(row["task"], row["other task"]) for row in pairs] == [
        ("task0", "task1"), ("task0", "task2"), ("task1", "task2")
    ]  # fmt: skip
    assert float(pairs[1]["cosine"]) == pytest.approx(float(analysis.cosines[0, 2]))
    totals = {
        sheet.title: sheet.lines[-1].entries[sheet.headings.index("STI")].value
        for sheet in report.sheets
        if "layer" in sheet.title
    }
    assert list(totals.values()) == pytest.approx([analysis.interference] * 2)
    assert all(path.is_file() for path in report.paths)
    assert "| layers | k | energy at k |" in (tmp_path / "table.md").read_text()
    (tmp_path / "table.tex").write_text(latex(report.sheets))
    (tmp_path / "table.tex").read_text(encoding="ascii")  # what any LaTeX reads


def test_layers_are_of_one_type_where_only_the_block_differs():
    base, finetuned = zoo(2)
    for model in (base, *finetuned.values()):
        for block in range(12):
            model[f"blocks.{block}.fc1.weight"] = model["tall.weight"].clone()
    kinds = analyze(base, finetuned).kinds
    assert len(kinds["blocks.*.fc1.weight"]) == 12


def test_pictures_show_the_measures():
    base, finetuned = zoo(3)
    analysis = analyze(base, finetuned)
    with styled():
        figures = dict(plots.draw(analysis))
    bars = figures["interference-by-layer"].axes[0].patches
    assert [bar.get_width() for bar in bars] == pytest.approx([layer.interference for layer in analysis.changed])
    heat = figures["pairs"].axes[0].images[0].get_array()
    assert float(heat[0, 1]) == pytest.approx(float(analysis.overlap("left")[0, 1]))
    assert [axes.images[0].get_array()[1, 0] for axes in figures["pairs"].axes[:4]] == pytest.approx(
        [
            float(matrix[1, 0])
            for matrix in (analysis.overlap("left"), analysis.overlap("right"), analysis.cosines, analysis.pairs)
        ]
    )
    line = figures["spectra"].axes[0].lines[0]
    first = next(iter(analysis.kinds.values()))[0].spectra[0]
    assert line.get_ydata() == pytest.approx((first / first[0]).tolist())


def test_a_task_that_changed_nothing_can_be_drawn(tmp_path):
    base, _ = zoo(1)
    report = write_analysis(analyze(base, {"still": base}), [], tmp_path, "none")
    assert not any("spectra.png" in path.name for path in report.paths)


def long_names(tasks):
    """A base with one more layer, of a long name, and as many equal tasks."""
    base, finetuned = zoo(1)
    for model in (base, *finetuned.values()):
        model["visual.transformer.resblocks.0.attn.in_proj_weight"] = model["tall.weight"].clone()
    return analyze(base, {f"task{i}": finetuned["task0"] for i in range(tasks)})


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("tasks", [1, 3, 20])
def test_titles_and_names_have_room_in_the_pictures(tasks, narrow):
    with styled():
        for name, fig in plots.draw(long_names(tasks), narrow):
            fig.draw_without_rendering()
            titles = [axes.title.get_window_extent() for axes in fig.axes if axes.get_title()]
            boxes = [axes.get_tightbbox() for axes in fig.axes if axes.get_visible()]
            assert not any(a.overlaps(b) for a, b in combinations(titles, 2)), f"{name}: titles overlap"
            assert all(fig.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1 for box in boxes), f"{name}: cut off"


def test_a_narrow_terminal_shows_interference():
    by_type, by_layer = tables.sheets(long_names(3))[:2]
    for sheet in (by_type, by_layer):
        console = Console(file=io.StringIO(), width=80)
        show([sheet], console)
        text = console.file.getvalue()
        assert f" {sheet.first} " in text
        assert "STI / Σσ" in text
        assert all(entry.text in text for entry in sheet.lines[-1].entries[-tables.KEPT :])
        assert "…" not in text


def test_colours_do_not_tell_small_differences_apart():
    with styled():
        for narrow in (False, True):
            figures = dict(plots.draw(long_names(2), narrow))
            for axes in figures["pairs"].axes[:4]:
                image = axes.images[0]
                assert image.norm(image.get_array()[0, 1]) == pytest.approx(
                    float(image.norm(image.get_array()[1, 0])), abs=0.01
                )
            energy = figures["layers-by-tasks"].axes[0].images[0]
            assert (energy.norm.vmin, energy.norm.vmax) == (0, 1)
            assert "grey: a task with itself" in " ".join(figures["pairs"].get_suptitle().split())


def test_ink_stands_out_from_every_colour():
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name in ("viridis", "magma", "RdBu_r"):
        for at in range(101):
            colour = colormaps[name](at / 100)
            dark, light = sorted((luminance(colour), luminance(readable_on(colour))))
            assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_tables_show_the_pairs_that_interfere_most(monkeypatch):
    base, finetuned = zoo(4)
    analysis = analyze(base, finetuned)
    monkeypatch.setattr(tables, "PAIRS_SHOWN", 2)
    sheet = tables.sheets(analysis)[-1]
    worst = sorted(combinations(range(4), 2), key=lambda pair: -float(analysis.pairs[pair]))[:2]
    assert [line.label for line in sheet.lines] == [f"task{i}, task{j}" for i, j in worst]
    assert sheet.legend.startswith("The 2 of 6 pairs that interfere most")


def test_overlap_stands_beside_what_chance_gives():
    base, finetuned = zoo(3)
    analysis = analyze(base, finetuned)
    (line,) = [line for line in tables.sheets(analysis)[1].lines if line.label == "tall.weight"]
    layer = next(layer for layer in analysis.layers if layer.name == "tall.weight")
    entry = line.entries[tables.sheets(analysis)[1].headings.index("overlap left")]
    mean = (float(layer.left.sum()) - 3) / 6
    assert entry.value == pytest.approx(mean)
    assert entry.text == f"{mean:.3f} ({layer.k / layer.shape[0]:.3f})"


def test_large_figures_are_written_out():
    texts = [tables.rounded(value) for value in (22137.4, 999.96, 1.23456, 0.005695)]
    assert texts == ["22137", "1000", "1.235", "0.005695"]
