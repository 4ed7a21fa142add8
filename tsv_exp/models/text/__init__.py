"""Text: encoders of transformers (model=text_encoder), and twenty tasks of real texts in benchmark/.

The protocol of a model is in models/protocol.py.
"""
