"""Text models of transformers, and twenty tasks with real texts in benchmark/.

The interface of a model is in models/protocol.py.
"""
