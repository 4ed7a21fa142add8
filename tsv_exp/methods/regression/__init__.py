"""Methods that fit the merged layer to the tasks' layers by least squares.

The tasks' inputs are given as second moments, or the task matrices stand in for them.
"""
