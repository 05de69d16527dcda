"""The entry point."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from tessera_hub import __version__
from tessera_hub.i18n import gettext as _
from tessera_hub.i18n import language_from_environment, speak

from .commands import CommandTable
from .language import localised, translate_click
from .output import ExitCode


@click.command(
    cls=CommandTable,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the task failed or was cancelled, 2 refused or wrong use, 3 the service cannot be reached, "
    "4 not signed in, 130 interrupted.",
)
@click.option("--url", metavar="URL", help="Address of the service; by default TESSERA_URL or what `tessera login` stored.")
@click.version_option(__version__, prog_name="tessera")
def root(url: str | None) -> None:
    """Run notebooks and jobs on any connected compute centre, see quotas and cost."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``tessera``; the language is that of the terminal (``TESSERA_LANGUAGE``, ``LC_ALL``, ``LC_MESSAGES``, ``LANG``)."""
    speak(language_from_environment())
    translate_click()
    command = localised(root)
    try:
        code = command.main(args=None if arguments is None else list(arguments), prog_name="tessera", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.REFUSED)
    except (click.Abort, KeyboardInterrupt):
        click.echo(_("Interrupted."), err=True)
        sys.exit(ExitCode.INTERRUPTED)
    sys.exit(code if isinstance(code, int) else ExitCode.DONE)
