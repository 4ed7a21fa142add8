"""Configuration files of tsv-merge: rules for layers, weights of models, and mergekit's YAML."""

import pytest
import torch
import yaml
from models import zoo
from safetensors.torch import load_file, save_file

from tsv_exp import UserError, merge
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.command_line import options_of
from tsv_exp.merge_files.options.help import method_lines


@pytest.fixture
def files(tmp_path, monkeypatch):
    """base and finetuned in float64, whose files lie in the current folder."""
    monkeypatch.chdir(tmp_path)
    base, finetuned = zoo(3)
    save_file(base, "base.safetensors")
    for task, weights in finetuned.items():
        save_file(weights, f"{task}.safetensors")
    return base, finetuned


def merged(config, *words):
    """What tsv-merge makes of a configuration."""
    with open("config.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file, sort_keys=False)
    run(options_of(["config.yaml", "out=out", *words]))
    return load_file("out/model.safetensors")


PATHS = {task: f"{task}.safetensors" for task in ("task0", "task1", "task2")}
OURS = {"base": "base.safetensors", "models": PATHS}


def deltas(files):
    base, finetuned = files
    names = [name for name, weight in base.items() if weight.is_floating_point()]
    return {name: torch.stack([model[name] - base[name] for model in finetuned.values()]) for name in names}


def expect(files, got, taus):
    base, _ = files
    for name, weight in base.items():
        wanted = weight + taus[name] if name in taus else weight
        assert torch.allclose(got[name], wanted, atol=1e-12), name


def test_every_layer_has_the_method_of_the_first_pattern_that_matches(files):
    base, finetuned = files
    rules = {
        "tall*": {"method": "tsv_m", "rank_fraction": 0.25, "alpha": 0.5},
        "*.weight": {"method": "ties", "density": 0.5},
    }
    got = merged(OURS | {"method": "weight_average", "layers": rules})
    weights = {name for name in base if name.endswith(".weight")} - {"tall.weight"}
    part = {name: base[name] for name in weights}  # ties trims what it merges
    parts = {task: {name: model[name] for name in weights} for task, model in finetuned.items()}
    taus = {name: delta.mean(0) for name, delta in deltas(files).items()}
    taus |= merge(part, parts, "ties", density=0.5).vector()
    taus["tall.weight"] = 0.5 * merge(base, finetuned, "tsv_m", rank_fraction=0.25).vector()["tall.weight"]
    expect(files, got, taus)


def test_weights_multiply_task_vectors(files):
    models = {"task0": {"path": "task0.safetensors", "weight": 0.5}, "task1": "task1.safetensors"}
    got = merged({"base": "base.safetensors", "models": models, "method": "task_arithmetic", "alpha": 1.0})
    expect(files, got, {name: 0.5 * delta[0] + delta[1] for name, delta in deltas(files).items()})


def test_what_is_typed_overrides_the_file(files):
    got = merged(OURS | {"method": "task_arithmetic", "alpha": 1.0}, "alpha=0.25", "weights={task2: -1}")
    expect(files, got, {name: 0.25 * (delta[0] + delta[1] - delta[2]) for name, delta in deltas(files).items()})


def test_paths_in_a_file_are_text(files, tmp_path):
    (tmp_path / "base.safetensors").rename(tmp_path / "2024_01.safetensors")
    (tmp_path / "task0.safetensors").rename(tmp_path / "1e3")
    (tmp_path / "config.yaml").write_text("base: 2024_01\nmodels: [no]\nout: 1_0\n")
    options = options_of(["config.yaml"])
    assert (options.base, list(options.models.values()), str(options.out)) == ("2024_01", ["no"], "1_0")


def test_names_of_weights_are_text_too(files, tmp_path):
    (tmp_path / "config.yaml").write_text("base: b\nmodels: {no: a, 1e3: c}\nout: o\nweights: {no: 2, 1e3: 0.5}\n")
    assert options_of(["config.yaml"]).weights == {"no": 2, "1e3": 0.5}


def test_content_that_contains_itself(files, tmp_path):
    (tmp_path / "config.yaml").write_text("base: &x [*x]\nmodels: [a]\nout: o\n")
    with pytest.raises(UserError, match=r"config\.yaml: is nested too deeply, or contains itself"):
        options_of(["config.yaml"])


def test_a_key_that_is_there_twice_is_an_error(files, tmp_path):
    (tmp_path / "config.yaml").write_text("base: b\nmodels:\n  a: x\n  a: y\nout: o\n")
    with pytest.raises(UserError, match=r"config\.yaml, line 4: 'a' is there twice"):
        options_of(["config.yaml"])
    (tmp_path / "config.yaml").write_text(
        "base: b\nmodels: {a: {path: x, weight: 2}, c: y}\nout: o\nweights: {a: 3, c: 1}\n"
    )
    with pytest.raises(UserError, match=r"config\.yaml: model 'a' has a weight in models and in weights"):
        options_of(["config.yaml"])


def kit(method, weights=(1.0, 1.0, 1.0), base="base.safetensors", shared=None, **own):
    """A file of mergekit."""
    models = [
        {"model": path, "parameters": {"weight": weight, **own}}
        for path, weight in zip(PATHS.values(), weights, strict=True)
    ]
    return {"merge_method": method, "models": models, "parameters": shared or {}} | (
        {"base_model": base} if base else {}
    )


def magnitude_order(flat):
    return flat.abs().argsort(stable=True)


def outliers(delta, density, gamma):
    """mergekit's breadcrumbs: the largest share gamma goes, then the smallest until the share density is left."""
    flat, kept = delta.flatten(), torch.zeros(delta.numel(), dtype=torch.bool)
    top, left = int(gamma * len(flat)), int(density * len(flat))
    kept[magnitude_order(flat)[len(flat) - left - top : len(flat) - top]] = True
    return (flat * kept).view(delta.shape)


def agreeing_mean(delta):
    sign = torch.where(delta.sum(0) >= 0, 1.0, -1.0)
    mask = delta.sign() == sign
    return (delta * mask).sum(0) / mask.sum(0).clamp(min=1)


@pytest.mark.parametrize(
    ("config", "tau"),
    [
        (kit("linear", (1, 2, 1)), lambda d: (d[0] + 2 * d[1] + d[2]) / 4),
        (kit("linear", (1, 2, 1), base=None), lambda d: (d[0] + 2 * d[1] + d[2]) / 4),
        (kit("task_arithmetic", (0.5, 0.2, -1)), lambda d: 0.5 * d[0] + 0.2 * d[1] - d[2]),
        (kit("task_arithmetic", (1, 2, 1), shared={"lambda": 0.5}), lambda d: 0.5 * (d[0] + 2 * d[1] + d[2])),
        (kit("task_arithmetic", (1, 2, 1), shared={"normalize": True}), lambda d: (d[0] + 2 * d[1] + d[2]) / 4),
        (kit("ties", (2, 2, 2), shared={"int8_mask": True}), agreeing_mean),
        (
            kit("task_arithmetic") | {"name": "mine", "tokenizer": {"source": "base"}, "chat_template": None},
            lambda d: d.sum(0),
        ),
    ],
)
def test_mergekits_files_mean_the_same(files, config, tau):
    expect(files, merged(config), {name: tau(delta) for name, delta in deltas(files).items()})


def test_mergekits_breadcrumbs(files):
    """On layers whose shares are whole numbers of entries; elsewhere the two round a share to another entry."""
    got = merged(kit("breadcrumbs", (1, 0.5, 1), density=0.5, gamma=0.1))
    found = deltas(files)
    for name in ("tall.weight", "wide.weight", "square.weight"):
        delta = found[name]
        tau = sum(w * outliers(d, 0.5, 0.1) for w, d in zip((1, 0.5, 1), delta, strict=True))
        assert torch.allclose(got[name], files[0][name] + tau, atol=1e-12), name


def test_mergekits_dare_drops_the_same_share(files):
    got = merged(kit("dare_linear", density=0.4))
    change = (got["tall.weight"] - files[0]["tall.weight"])[:, :]
    delta = deltas(files)["tall.weight"]
    sums = torch.stack([sum((delta[i] / 0.4) * bool(k >> i & 1) for i in range(3)) for k in range(8)])
    assert ((change - sums).abs().amin(0) < 1e-12).all()  # every entry is a sum of kept and rescaled ones


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (kit("slerp"), "slerp has no counterpart"),
        (kit("ties", density=0.5), "density below 1.*method=ties"),
        (kit("ties", (1, 2, 1)), "different weight per model"),
        (kit("ties", shared={"normalize": False}), "normalize: false"),
        (kit("dare_ties", density=0.5), "normalize: false"),
        (kit("dare_linear", density=0.5, shared={"rescale": False}), "rescale: false"),
        (kit("linear", shared={"normalize": False}), "weights that sum to 1"),
        (kit("task_arithmetic", ([0, 1], 1, 1)), r"weight: \[0, 1\]"),
        (kit("task_arithmetic") | {"slices": []}, "slices"),
        (kit("task_arithmetic") | {"tokenizer_source": "union"}, "tokenizer_source: union"),
        (kit("task_arithmetic") | {"tokenizer": {"source": "union"}}, "tokenizer: {'source': 'union'}"),
        (kit("task_arithmetic", epsilon=0.1), "epsilon"),
        (kit("task_arithmetic", base=None), "base_model is missing"),
        (OURS | {"layers": {"*": {"method": "tsv"}}}, "unknown method 'tsv'"),
        (OURS | {"layers": {"nowhere*": {"method": "ties"}}}, "'nowhere.' is the first match of no layer"),
        (OURS | {"layers": {"*": 3}}, "give a mapping of method"),
        (OURS | {"layers": {"*": {"method": "ties", "rank_fraction": 0.1}}}, "no parameter 'rank_fraction'"),
        (OURS | {"weights": {"task9": 1}}, "there is no model 'task9'"),
        (OURS | {"models": {"a": {"weight": 1}}}, "give path and weight"),
        ([1], "give options as name: value"),
        (OURS | {"base": ["base.safetensors"]}, "base: give one text, not a list"),
        (OURS | {"models": {"a": ["a.safetensors"]}}, "give path and weight"),
        (OURS | {"models": [["a.safetensors"]]}, "name the models that have weights"),
        (kit("linear") | {"parameters": 5}, "parameters: 5"),
        (kit("linear") | {"base_model": {"model": "a"}}, "the model {'model': 'a'}"),
    ],
)
def test_what_is_not_understood_is_named(files, config, message):
    with pytest.raises(UserError, match=message) as error:
        merged(config)
    assert "\n" not in str(error.value)


def test_methods_of_ones_own_and_configurations_by_name(files, tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "largest.yaml").write_text(
        "# The largest entry of all tasks.\ndefaults: [task_arithmetic, _self_]\nname: largest\nalpha: {default: 1.0}\n"
    )
    (tmp_path / "mine" / "recipe.yaml").write_text(yaml.safe_dump(OURS | {"method": "largest"}))
    run(options_of(["--config-dir", "mine", "--config-name=recipe", "out=out"]))
    taus = {name: delta.sum(0) for name, delta in deltas(files).items()}
    expect(files, load_file("out/model.safetensors"), taus)
    told = method_lines(["--help", "--config-dir", "mine"])
    assert any(line.split() == ["largest", "The", "largest", "entry", "of", "all", "tasks."] for line in told)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["a.yaml", "b.yaml"], "one configuration file"),
        (["--config-name", "recipe"], "recipe.yaml is not there"),
        (["--config-dir", "nowhere"], "no such folder"),
        (["--verbose"], "--verbose"),
        (["merge"], "name=value"),
    ],
)
def test_command_lines_that_do_not_fit(files, words, message):
    with pytest.raises(UserError, match=message):
        options_of([*words, "base=b", "models=a", "out=o"])


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("alpa=1", "alpha"),
        ("lyers={}", "layers"),
        ("rank_fracton=1", "rank_fraction"),
        ("layers={q: {metod: x}}", "method"),
    ],
)
def test_a_parameter_that_no_method_has_is_found_before_the_weights(files, word, meant):
    with pytest.raises(UserError, match=f"method tsv_m has no parameter '.*'; did you mean {meant}\\? it has: rank"):
        run(options_of(["base=nowhere", "models=[a,b]", "out=o", word]))
