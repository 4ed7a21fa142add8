"""A parser of command lines whose errors are one line, as those of all commands."""

from argparse import ArgumentParser
from typing import NoReturn

from tsv_exp.errors import UserError


class Parser(ArgumentParser):
    """Argparse, without usage in front of an error."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of exiting."""
        raise UserError(f"{message}; {self.prog} --help lists the options")
