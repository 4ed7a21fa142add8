"""Checks of checkpoint files before they are read: archives and quantized weights.

The readers are in checkpoints/.
"""
