"""`python -m tsv_exp.merge_files`: tsv-merge for torchrun, which starts modules."""

import sys

from tsv_exp.commands.main import merge

if __name__ == "__main__":
    sys.exit(merge())
