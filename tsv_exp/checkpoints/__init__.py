"""Weights in and out: file formats, names, LoRA adapters, the hub, and merged models on disk.

What is done with the weights is elsewhere.
"""
