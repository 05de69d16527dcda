"""``tessera login`` and ``tessera whoami``."""

from __future__ import annotations

import os
import sys

import click

from tessera_hub.client import Connection, TesseraClient, TesseraError, normal_url, settings_file, write_settings
from tessera_hub.i18n import current_language
from tessera_hub.i18n import gettext as _

from .output import connected, fail, print_facts, print_json


@click.command()
@click.argument("url", required=False)
@click.option("--forget", is_flag=True, help="Remove what is stored.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def login(url: str | None, forget: bool, as_json: bool) -> None:
    """Store the address and a token of a service.

    The token is read from TESSERA_TOKEN, from standard input if that is not a terminal, or asked for; never from the command
    line, where others could see it. Get one on the hub's page "Tokens".
    """
    path = settings_file()
    if forget:
        path.unlink(missing_ok=True)
        if as_json:
            print_json({"forgotten": str(path)})
        else:
            click.echo(_("Nothing is stored any more."))
        return
    address = url or os.environ.get("TESSERA_URL")
    if not address:
        raise click.UsageError(_("Give the address of the hub, such as https://hub.example.org."))
    try:
        connection = Connection(normal_url(address), _token(normal_url(address)))
        with TesseraClient(connection.url, connection.token, speak=current_language()) as client:
            me = client.me()
        write_settings(connection, path)
    except TesseraError as error:
        fail(error, as_json=as_json)
        return
    if as_json:
        print_json({"url": connection.url, "stored": str(path), "me": me.model_dump(mode="json")})
        return
    click.echo(_("Signed in at {url} as {name}. Stored in {path}.", url=connection.url, name=me.name, path=path))


def _token(service: str) -> str:
    token = os.environ.get("TESSERA_TOKEN")
    if not token:
        if sys.stdin.isatty():
            click.echo(_("Get a token at {url}.", url=service.rsplit("/services/", 1)[0] + "/hub/token"), err=True)
            token = click.prompt(_("Token"), hide_input=True, err=True)
        else:
            token = sys.stdin.readline()
    token = token.strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise TesseraError("client.token", _("This is not a token."), _("Copy it again from the hub's page."))
    return token


@click.command()
@connected
def whoami(client: TesseraClient, as_json: bool) -> None:
    """Show who you are for the service."""
    me = client.me()
    if as_json:
        print_json({**me.model_dump(mode="json"), "url": client.connection.url})
        return
    print_facts(
        [
            (_("Name"), me.name),
            (_("Service"), client.connection.url),
            (_("Tenants"), ", ".join(me.tenants)),
            (_("Administrator"), _("yes") if me.admin else _("no")),
            (_("Scopes"), ", ".join(me.scopes)),
            (_("Currency"), me.currency),
        ]
    )
