"""Predicts the task of an input from the weights alone, for methods with a model per task.

A router scores the inputs of linear layers during one pass of the base model. The mathematics is in gaussian.py and
subspace.py, the hooks in capture.py, routers in likelihood.py and mass.py, and folders that can be served in serving/.
"""
