"""The program `calabi-cli`, as a script of the wheel."""

import sys

from ._engine import program


def main() -> None:
    """Runs the program on the arguments of this process."""
    sys.exit(program(["calabi-cli", *sys.argv[1:]]))
