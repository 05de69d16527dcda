"""What the parts of a node refuse, as the commands for nodes tell it."""

from __future__ import annotations

import click

from tessera_hub.i18n import gettext as _
from tessera_vgpu.errors import VgpuError

from .output import ExitCode


class Refused(click.ClickException):
    """A refusal of the node agent, in the language of the terminal."""

    exit_code = ExitCode.REFUSED

    def __init__(self, error: VgpuError) -> None:
        texts = (error.template, error.hint_template)
        super().__init__(" ".join(_(text, **error.values) for text in texts if text))
