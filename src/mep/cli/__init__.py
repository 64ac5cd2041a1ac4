"""Arguments in, text and exit code out."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import click


class _Command(NamedTuple):
    where: str  # module:attribute, imported only when the command is run
    help: str


#: Every subcommand. The help line is here so that `mep --help` imports none of them.
COMMANDS: Final[dict[str, _Command]] = {
    "configure": _Command("mep.cli.setup:configure", "Write a new endpoint's files."),
    "list": _Command("mep.cli.setup:list_endpoints", "Show the configured endpoints."),
    "delete": _Command("mep.cli.setup:delete", "Remove an endpoint, here and at the relay."),
    "start": _Command("mep.cli.lifecycle:start", "Run an endpoint."),
    "stop": _Command("mep.cli.lifecycle:stop", "Stop an endpoint and everything it started."),
    "restart": _Command("mep.cli.lifecycle:restart", "Stop, then start."),
    "status": _Command("mep.cli.lifecycle:status", "Show what an endpoint is doing."),
    "reload": _Command("mep.cli.lifecycle:reload", "Read the configuration files again."),
    "drain": _Command("mep.cli.lifecycle:drain", "Take no new users; let the present ones finish."),
    "stop-user": _Command("mep.cli.lifecycle:stop_user", "Stop the user endpoints of one user."),
    "check": _Command("mep.cli.inspect:check", "Read and cross-check every file; start nothing."),
    "render": _Command("mep.cli.render:render", "Show the configuration a user would get."),
    "map": _Command("mep.cli.inspect:map_identity", "Show who an identity becomes, and by which rule."),
    "diagnose": _Command("mep.cli.inspect:diagnose", "Report on this host and its endpoints."),
    "login": _Command("mep.cli.login:login", "Log in to a relay."),
    "logout": _Command("mep.cli.login:logout", "Forget the login."),
    "whoami": _Command("mep.cli.login:whoami", "Show who is logged in."),
    "relay": _Command("mep.cli.relay:relay", "Serve a relay; make its tokens, clients and users."),
    "version": _Command("mep.cli.inspect:version", "Show the version."),
}

#: Stock spellings.
ALIASES: Final = {"render-user-config": "render"}


class MepGroup(click.Group):
    """Imports a subcommand when it is run; turns every failure into one text and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if command is None:
            return None
        module, _, attribute = command.where.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return (ALIASES.get(name, name) if name else name), command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def main(  # type: ignore[override] # click's own signature is overloaded on standalone_mode
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run and exit; never returns, never shows a traceback for what a person can cause."""
        from mep.cli.failure import exit_status

        extra["standalone_mode"] = False
        # one that takes from the owner too makes files that we cannot read again
        os.umask(os.umask(0o077) & 0o077)
        sys.exit(exit_status(lambda: super(MepGroup, self).main(args, prog_name or "mep", **extra)))


@click.group(cls=MepGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of endpoint folders. Default: MEP_CONFIG_DIR, else /etc/mep (root) or ~/.config/mep.",
)
@click.pass_context
def main(ctx: click.Context, config_dir: Path | None) -> None:
    """Run Python functions on this site's machines, as the people who sent them."""
    from mep.cli.context import Cli

    ctx.obj = Cli.make(config_dir, env=os.environ)
