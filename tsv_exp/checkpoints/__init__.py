"""Weights in and out: file formats, names, LoRA adapters, the hub, and merged models on disk.

Merging and evaluation of the weights are elsewhere.
"""
