"""Output formats of tables: Markdown, LaTeX, CSV, JSON, terminal.

What tables contain is in report/tables/.
"""
