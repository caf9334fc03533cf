"""Entry point of `python -m edgecrack`: the command line."""

from edgecrack.cli import main

main()
