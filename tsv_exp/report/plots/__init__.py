"""Plots of a report by matplotlib: bars, curves, heatmaps, and the style they share.

The numbers come from tables/.
"""
