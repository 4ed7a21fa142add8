"""The specification of a merging method: the content of its YAML, and where YAML files are.

The functions of the methods are in methods/.
"""

from tsv_exp.methods.specification.method import Method
from tsv_exp.methods.specification.scaling import Alpha, Tune

__all__ = ["Alpha", "Method", "Tune"]
