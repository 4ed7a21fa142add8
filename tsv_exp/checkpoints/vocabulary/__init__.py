"""Tokenizers and the rows of embeddings and heads that belong to their tokens.

Other tensors are in checkpoints/.
"""
