"""What a sweeper that searches gets from a cell."""

from tsv_exp.sweeps.cell import objective


def test_the_objective_is_of_the_values_measured_on_the_most_examples() -> None:
    dropped = {"mean_normalized": 0.9, "examples": 20}
    kept = [{"mean_normalized": value, "examples": 400} for value in (0.7, 0.8)]
    assert objective({"validation": [dropped, *kept]}) == 0.8
    assert objective({"validation": [{"mean_normalized": 0.6}, {"mean_normalized": 0.5}]}) == 0.6
    assert objective({"status": "failed"}) is None
