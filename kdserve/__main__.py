"""`python -m kdserve` is the command `kdserve`."""

from kdserve.cli import main

main()
