"""Reports: tables, plots and one page from run folders; imports no torch and no model.

results/ reads runs, tables/ and plots/ render them, `write` writes everything into one folder.
"""
