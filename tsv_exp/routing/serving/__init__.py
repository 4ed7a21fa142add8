"""Models that route: the files of a folder with a router, and the model that `tsv_exp.load` makes of it.

How a task is predicted is in the folder above.
"""
