"""Errors as one line: what an error says to the user, with a remedy.

What is checked, and when, is decided elsewhere.
"""
