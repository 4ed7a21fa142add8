"""Run folders -> tables, plots and one page; imports no torch and no model.

results/ reads runs, tables/ and plots/ show them, `write` puts everything into one folder.
"""
