"""What happens to a merged layer: checks of its form, scaling across layers, and the merged weights.

How layers are merged is in the folder above.
"""
