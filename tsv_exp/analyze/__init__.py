"""Measures of task matrices: Singular Task Interference (arXiv 2412.00081), spectra, overlaps, and their report.

It needs weights only, no data. Merging and accuracies are in other rooms.
"""
