"""CLIP ViT models of open_clip: their checkpoints, data sets and heads.

Formats of checkpoint files in general are in checkpoints/.
"""
