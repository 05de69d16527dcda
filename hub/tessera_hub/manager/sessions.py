"""Who may speak for a cluster."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.context import Settings
from tessera_hub.api.errors import Problem
from tessera_hub.i18n import gettext as _
from tessera_hub.manager.tokens import epoch_of, session_token, token_hash
from tessera_hub.schemas.protocol import PROTOCOL_VERSION, SessionAnswer, SessionRequest, Timers
from tessera_hub.store.notify import SCHEDULE, cluster_topic, note
from tessera_hub.store.tables import Cluster


async def begin(
    session: AsyncSession, name: str, bootstrap: str | None, request: SessionRequest, settings: Settings
) -> SessionAnswer:
    """Begin a session; the new epoch fences any older agent.

    Raises:
        Problem: 401 ``proxy.refused``, 409 ``proxy.version``.
    """
    cluster = await locked(session, name)
    if cluster is None or not bootstrap or not hmac.compare_digest(token_hash(bootstrap), cluster.bootstrap_hash):
        raise Problem(401, "proxy.refused", _("The cluster's name or its bootstrap token is wrong."))
    if request.protocol_version != PROTOCOL_VERSION:
        raise Problem(
            409, "proxy.version", _("This Proxy speaks another version of the protocol; install the service's version.")
        )
    now = datetime.now(UTC)
    timers = settings.timers
    token = session_token(settings.secret, cluster.id, cluster.epoch, request.instance)
    if cluster.session_hash == token_hash(token):
        return _answer(cluster, token, timers)  # an echo of the request that began this very session
    cluster.epoch += 1
    token = session_token(settings.secret, cluster.id, cluster.epoch, request.instance)
    cluster.session_hash = token_hash(token)
    cluster.session_expires_at = now + timedelta(seconds=timers.session)
    cluster.first_contact, cluster.last_seq = True, 0
    cluster.last_contact_at, cluster.state = now, "ok"
    cluster.driver, cluster.agent_version = request.driver, request.agent_version[:40]
    cluster.capabilities = list(request.capabilities)
    cluster.version += 1
    note(session, SCHEDULE, cluster_topic(cluster.id))
    return _answer(cluster, token, timers)


def _answer(cluster: Cluster, token: str, timers: Timers) -> SessionAnswer:
    return SessionAnswer(
        session_token=token,
        epoch=cluster.epoch,
        timers=timers,
        meter_checkpoint=cluster.meter_checkpoint,
        cluster=cluster.name,
    )


async def locked(session: AsyncSession, name: str) -> Cluster | None:
    """Return the cluster, locked for this transaction."""
    query = select(Cluster).where(Cluster.name == name).with_for_update()
    return (await session.scalars(query, execution_options={"populate_existing": True})).first()


def check(cluster: Cluster | None, token: str | None, epoch: int) -> Cluster:
    """Return the cluster if *token* is its current session.

    Raises:
        Problem: 409 ``proxy.fenced``, 401 ``proxy.session``.
    """
    if cluster is None or not token:
        raise Problem(401, "proxy.session", _("The Proxy's session is unknown or has ended."))
    made_for = epoch_of(token)
    if made_for is not None and made_for < cluster.epoch:
        raise Problem(409, "proxy.fenced", _("A newer Proxy serves this cluster."))
    right = cluster.session_hash is not None and hmac.compare_digest(token_hash(token), cluster.session_hash)
    expired = cluster.session_expires_at is None or cluster.session_expires_at < datetime.now(UTC)
    if not right or expired or epoch != cluster.epoch:
        raise Problem(401, "proxy.session", _("The Proxy's session is unknown or has ended."))
    return cluster
