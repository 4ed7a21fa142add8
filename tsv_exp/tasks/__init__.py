"""Tasks: classes, prompts, splits, and the selection of a run's tasks.

How a model encodes examples is in models/.
"""
