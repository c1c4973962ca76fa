"""The command line: one file a verb, imported only when it is chosen."""

from regard.cli.main import main as main
