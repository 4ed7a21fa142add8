"""Files on disk: atomic writes, locks, the user's cache, digests, tensors as safetensors, cached weights.

Formats of checkpoints that other libraries write are in checkpoints/.
"""
