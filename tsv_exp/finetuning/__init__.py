"""Fine-tuning: the training loop, and its state on disk for resuming.

Models and data are in models/ and data/; the command is in commands/.
"""
