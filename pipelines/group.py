"""A Click group whose commands are imported only when they are called."""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """Looks a command up in a table, so that help needs no import of it.

    Parameters
    ----------
    name
        The group's own name.
    package
        Where the modules are; each holds a `command`, and is named as it is.
    table
        Command name to its line of help, in the order of the help page.
    settings
        What `click.Group` takes: help, context_settings.
    """

    def __init__(self, name: str, package: str, table: Mapping[str, str], **settings: Any) -> None:
        super().__init__(name, **settings)
        self._package = package
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return it; None for an unknown name."""
        if cmd_name not in self._table:
            return None
        module = importlib.import_module(f"{self._package}.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._table.items()))
