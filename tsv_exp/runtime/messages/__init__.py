"""One-line error messages for users, with a remedy.

What is checked, and when, is decided elsewhere.
"""
