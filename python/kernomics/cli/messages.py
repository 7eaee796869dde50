"""Messages as the command prints them: remedies that name its options, not Python's arguments."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from typing import NoReturn

ARGUMENTS = {
    "empty_cells='keep'": "--keep-empty",
    "layer=None": "--layer X",
    "gene_names=None": "--gene-names var_names",
    "library_key=None": "--library-key auto",
    "unlabelled_category": "--unlabelled",
    "forced_genes": "--force",
    "forbidden_genes": "--forbid",
    "exclude_patterns": "--exclude",
    "labels": "--label",
    "n_random": "--random",
    "n_starts": "--starts",
    "how": "--split",
}
"""Options that go by another name than the argument."""

CALL = r"[A-Za-z_][\w.]*\([^()]*\)"
NAME = r"(?<![\w.'\"/-])(?P<name>[a-z][a-z0-9_]*)"
VALUE = r"'[^']*'|\"[^\"]*\"|…|True|False|None|[\[{][^\]}]*[\]}]|-?\d[\w.]*"
TWICE = re.compile(r"(--[a-z-]+) \(\1\)")
ALTERNATIVE = re.compile(r"[,;] or [^,;]*")
TOKEN = re.compile(rf"(?P<call>{CALL})|{NAME}(?:=(?P<value>{VALUE}))?(?![\w(=])")


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where the options are listed, not all of them first."""

    def error(self, message: str) -> NoReturn:
        """End with the message and code 2."""
        needed = message.partition("arguments are required: ")[2].split(", ")
        if {"data", "run_or_model", "model"} & set(needed):
            message += (
                "; put the file first, because an option that takes several values, such as "
                "--labels-key, takes everything that follows"
            )
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help lists the options)\n")


def options_of(parser: argparse.ArgumentParser, command: str) -> dict[str, str]:
    """Return the options of a command, such as ``"--use-raw"``, by the argument each stands for."""
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    actions = [action for action in found.choices[command]._actions if action.option_strings]
    own = {
        action.dest: next((o for o in action.option_strings if o.startswith("--")), "")
        for action in actions
    }
    known = set(own.values())
    return own | {name: opt for name, opt in ARGUMENTS.items() if opt.partition(" ")[0] in known}


def as_options(message: str, options: Mapping[str, str]) -> str:
    """Write a message for the reader of a command."""

    def kept(match: re.Match[str]) -> str:
        found = TOKEN.finditer(match[0])
        lost = (m for m in found if m["value"] and not _option(m["name"], m["value"], options))
        return "" if any(lost) else match[0]

    def told(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name is None:
            return match[0]
        option = _option(name, value, options)
        if value is None:  # a word of the sentence, unless it can only be an argument
            return option if option is not None and "_" in name else match[0]
        if option is None:
            return f"{match[0]} (in Python)"
        if value == "True" or f"{name}={value}" in options:
            return option
        if value[0] == "{":  # label_kinds={'leiden': 'categorical'}
            key, _, kind = value[1:-1].partition(":")
            value = "=".join(part.strip().strip("'\"") for part in (key, kind))
        return f"{option} {shlex.quote(value.strip(chr(39) + chr(34)))}".replace("'…'", "…")

    return TWICE.sub(r"\1", TOKEN.sub(told, ALTERNATIVE.sub(kept, message)))


def _option(name: str, value: str | None, options: Mapping[str, str]) -> str | None:
    exact = options.get(f"{name}={value}") if value is not None else None
    return exact or options.get(name)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)
