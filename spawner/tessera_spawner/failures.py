"""How a start fails, apart from a reservation that is not there."""

from __future__ import annotations

from jupyterhub.spawner import SpawnException
from tornado.web import HTTPError

from tessera_hub.i18n import language
from tessera_hub.schemas.reasons import Reason
from tessera_hub.tasks.reasons import localised


def refused(why: Reason, code: str, status: int = 409) -> StartRefused:
    """Return the refusal of a start, with its message in the language *code*."""
    with language(code):
        message = localised(why.model_copy(update={"message": ""})).message
    return StartRefused(message, why, status)


class WorkspaceStartError(HTTPError):
    """The server did not come up; the hub shows the message to the person and counts it as an error of the installation."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message.replace("%", "%%"))
        self.jupyterhub_message = message

    def __str__(self) -> str:
        return self.jupyterhub_message


class StartRefused(SpawnException):  # type: ignore[misc]  # JupyterHub has no types
    """The engine cannot start the server, for a reason that is the person's or the cluster's and no error of the hub."""

    def __init__(self, message: str, why: Reason, status_code: int) -> None:
        super().__init__(message, reason=why.code, log_message=f"{why.code} {why.message}".strip(), status_code=status_code)
        self.why = why
