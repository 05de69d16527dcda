"""Which containers go around their limits, by the evidence of one look: a pure function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tessera_vgpu.agent.evidence import Context, Evidence
from tessera_vgpu.agent.processes import Process
from tessera_vgpu.agent.view import Bypass, Finding
from tessera_vgpu.bindings import Contexts

_BYTES_PER_MIB: Final = 1 << 20


def judge(evidence: Evidence, contexts: Contexts, tolerance_bytes: int) -> dict[Finding, tuple[Process, ...]]:
    """Return what this look alone would say, and the processes of each.

    Args:
        tolerance_bytes: what the driver may take for a process beside its context, without a call that could be counted.
    """
    found: dict[Finding, tuple[Process, ...]] = {}
    groups: dict[tuple[str, str], list[Context]] = {}
    for context in evidence.contexts:
        for finding in _of_process(context, contexts, tolerance_bytes):
            found[finding] = (context.tenant.process,)
        groups.setdefault((context.tenant.holding.nonce, context.card), []).append(context)
    for holding in evidence.holdings:
        for share in holding.binding.shares:
            group = groups.get((holding.nonce, share.uuid), [])
            each = contexts.bytes_of.get(share.uuid, 0) + tolerance_bytes
            used = sum(context.bytes or 0 for context in group)
            if used > share.taken_mib * _BYTES_PER_MIB + len(group) * each:
                finding = Finding(Bypass.OVER_LIMIT, holding.nonce, share.uuid, 0, used)
                found[finding] = tuple(context.tenant.process for context in group)
    for tenant in evidence.opened:
        if tenant.library is False:
            card = tenant.holding.binding.shares[0].uuid
            found[Finding(Bypass.NO_LIBRARY, tenant.holding.nonce, card, tenant.process.pid)] = (tenant.process,)
    return found


def _of_process(context: Context, contexts: Contexts, tolerance_bytes: int) -> Iterator[Finding]:
    tenant, used = context.tenant, context.bytes or 0
    where = tenant.holding.nonce, context.card, tenant.process.pid, used
    if tenant.library is False:
        yield Finding(Bypass.NO_LIBRARY, *where)
    index = next((i for i, share in enumerate(tenant.holding.binding.shares) if share.uuid == context.card), None)
    if index is None:
        yield Finding(Bypass.FOREIGN_CARD, *where)
        return
    before, after = tenant.holding.booked(tenant.process, index)
    # A program that is not in the page has no context that the library knows of, so there is nothing to tolerate.
    allowed = 0 if after is None else after + contexts.bytes_of.get(context.card, 0) + tolerance_bytes
    # Books that change meanwhile prove nothing. Who changes them all the time hides no more than what its limit leaves.
    if used > allowed and before == after:
        yield Finding(Bypass.HIDDEN_MEMORY, *where)
