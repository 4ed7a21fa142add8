"""What the flow needs to know of a model (protocol.py), and the models that provide it: clip/, tiny/.

Checkpoint formats are in checkpoints/, tasks in tasks/, training in finetuning/.
"""
