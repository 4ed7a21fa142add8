"""Plots of a report by matplotlib: bars, curves, heatmaps, and the style they share.

Which numbers they show is decided in tables/.
"""
