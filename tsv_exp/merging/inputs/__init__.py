"""Models as inputs of a merge: names, views, weights, and whether they fit their base.

The stream of task vectors is in merging/.
"""
