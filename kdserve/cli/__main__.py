"""`python -m kdserve.cli` is the command `kdserve`."""

from kdserve.cli import main

main()
