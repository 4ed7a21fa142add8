"""Second moments of the layers' inputs, for methods that use a few unlabelled examples: which examples, and the sums.

The methods themselves are in methods/; the router's captures are in routing/.
"""

from tsv_exp.evaluation.moments.examples import Inputs, Noise, OtherTasks, Validation
from tsv_exp.evaluation.moments.second_moments import Moments, moments_of_merged, second_moments

__all__ = ["Inputs", "Moments", "Noise", "OtherTasks", "Validation", "moments_of_merged", "second_moments"]
