"""Examples of tasks: inputs and labels from folders, tables and hub data sets, checked against the task's classes.

How a model encodes inputs is in models/.
"""
