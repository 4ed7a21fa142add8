"""Tables: which runs share one, their rows and columns, and the formats they are written in.

Plots are in plots/, reading is in results/.
"""
