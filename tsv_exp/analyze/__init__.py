"""Measures of task matrices: Singular Task Interference (arXiv 2412.00081), spectra, overlaps, and their report.

Nothing here merges or needs images; merged models and their accuracies are elsewhere.
"""
