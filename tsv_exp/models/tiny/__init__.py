"""The embedded benchmark: a small CLIP and 20 synthetic tasks that are drawn on demand.

It runs on a CPU without downloads.
"""
