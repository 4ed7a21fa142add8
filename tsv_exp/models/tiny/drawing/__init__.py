"""Drawing of the embedded benchmark's images: glyphs, shapes, rendering.

The tasks are in tiny/catalogue.py.
"""
