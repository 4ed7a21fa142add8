"""Task vectors as a stream of layers, and the engine that runs a method over it.

The methods themselves are in methods/; files of weights are in checkpoints/.
"""
