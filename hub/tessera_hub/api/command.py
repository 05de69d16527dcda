"""``tessera service``."""

from __future__ import annotations

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.pass_context
def command(context: click.Context) -> None:
    """Run the hub service; traits can be set as --TesseraService.name=value."""
    from tessera_hub.service import TesseraService

    app = TesseraService.instance()
    app.initialize(list(context.args))
    app.start()
