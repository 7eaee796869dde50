"""The command line: ``kernomics --help``."""

from kernomics.cli.main import main, parser

__all__ = ["main", "parser"]
