"""The choice of α: on validation data by a grid, a search or a race, without data, or fixed by hand.

How accuracies are measured is in the rooms above; nothing here loads a model.
"""

from tsv_exp.evaluation.alpha.choice import (
    Candidate,
    Choice,
    Examples,
    Fixed,
    Grid,
    Point,
    Policy,
    Search,
    mean,
    normalized,
    propose,
    protocol,
)

__all__ = [
    "Candidate",
    "Choice",
    "Examples",
    "Fixed",
    "Grid",
    "Point",
    "Policy",
    "Search",
    "mean",
    "normalized",
    "propose",
    "protocol",
]
