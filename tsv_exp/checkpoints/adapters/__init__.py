"""LoRA adapters in PEFT's format: configuration, factors, and models with exactly known task vectors.

Adapters that are written are in merge_files/.
"""
