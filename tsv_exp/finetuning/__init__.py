"""From a base model to fine-tuned checkpoints: the training loop and its state on disk.

Models and data are given; the command is in commands/.
"""
