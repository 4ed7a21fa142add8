"""The options of tsv-merge: words of the command line, configuration files, mergekit's YAML, rules for layers.

What is done with them is in merge_files/.
"""
