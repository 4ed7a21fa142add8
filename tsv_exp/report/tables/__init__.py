"""Tables: groups of comparable runs, rows and columns, and output formats.

Plots are in plots/, reading is in results/.
"""
