"""The examples of tasks: folders, tables and hub data sets to inputs and labels, checked against the task's classes.

How a model encodes them is in models/.
"""
