"""`python -m edgecrack` is the command line."""

from edgecrack.cli import main

main()
