"""CLIP models of open_clip: checkpoints, data sets and heads.

General checkpoint formats are in checkpoints/.
"""
