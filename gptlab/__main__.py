"""The command line, as `python -m gptlab`."""

from gptlab.cli.main import main

main()
