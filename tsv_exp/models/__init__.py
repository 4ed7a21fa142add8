"""The interface of a model (protocol.py) and its implementations: clip/, text/, tiny/.

Checkpoint formats are in checkpoints/, tasks in tasks/, training in finetuning/.
"""
