"""Version constants of the parts of the program that results depend on.

Keys of caches, finished cells and interrupted merges hold these constants and the content of the inputs, not the text
of source files. Raise the constant of a part when its numbers change; tests/test_versions.py compares golden values
and fails if the constant was not raised.
"""

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from tsv_exp.storage.digests import digest

DECOMPOSITIONS = 2  # decompositions/: singular components and polar factors
METHODS = 5  # methods/ and merging/: the merged task vectors
EVALUATION = 1  # evaluation/: accuracies
CHOICES = 1  # evaluation/alpha: choices made on validation data
FINETUNING = 2  # finetuning/ and models/heads.py: fine-tuned weights
TINY_DATA = 1  # models/tiny: the images that are drawn
TINY_NETWORK = 1  # models/tiny: network, tokens, normalization
CLIP = 1  # models/clip: names, preprocessing, splits

ALL = {name: value for name, value in globals().items() if name.isupper()}


def installed(package: str) -> str:
    """The installed version of a package, or none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@cache
def program() -> str:
    """Digest of the version constants and of the versions of all dependencies."""
    needed = sorted({re.split(r"[^\w.-]", text)[0] for text in requires("tsv_exp") or () if "extra ==" not in text})
    return digest(ALL, [installed(name) for name in needed])
