"""How the images of the embedded benchmark are drawn: glyphs, shapes, rendering.

Which tasks are drawn is in tiny/catalogue.py.
"""
