"""Accuracies of merged models, and what is chosen by them on validation data: α and other scalars.

Models and data come from models/ and tasks/; nothing here trains or merges by itself.
"""
