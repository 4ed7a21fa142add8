"""`python -m tsv_exp.merge_files`: tsv-merge for torchrun, which starts modules."""

from tsv_exp.commands.merge import main

if __name__ == "__main__":
    main()
