"""Accuracies of merged models, and the choice of α and other scalars on validation data.

Models and data come from models/ and tasks/; nothing here trains or merges.
"""
