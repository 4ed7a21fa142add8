"""Experiment trackers behind one small protocol: Weights & Biases, TensorBoard, or none.

A tracker's package is imported only where it is chosen. Nothing that goes wrong in it costs a run its results.
"""
