"""The field's other data-free merging methods, one pure function each, written like those of tsv_exp.methods."""
