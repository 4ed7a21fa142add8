"""Merging from files to files: options, layout of the output, resuming, torchrun.

The mathematics is in methods/ and merging/; formats of weights are in checkpoints/.
"""
