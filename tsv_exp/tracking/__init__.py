"""Experiment trackers behind one small protocol: Weights & Biases, TensorBoard, or none.

A tracker's package is imported only if it is selected. A tracker's failure never affects a run's results.
"""
