"""Checks of checkpoint files before they are read: archives, other content, and quantized weights.

The readers are in checkpoints/.
"""
