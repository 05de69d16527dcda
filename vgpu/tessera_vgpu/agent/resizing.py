"""Changing what a living container may use, and the program's side of asking the agent for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from tessera_vgpu.bindings import Binding, Slot
from tessera_vgpu.cards import Card
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.slots import SlotStore

FIELDS: Final = frozenset({"memory_mib", "limit_centi_cards", "weight"})


def describe(slot: Slot, binding: Binding) -> dict[str, Any]:
    """Return a slice as the agent's socket shows it."""
    limits = binding.limits()
    return {
        "namespace": binding.owner.namespace,
        "pod": binding.owner.pod,
        "container": binding.owner.container,
        "nonce": slot.nonce,
        "cards": [
            {
                "card": share.uuid,
                "centi_cards": len(share.device_ids),
                "limit_centi_cards": card.compute_limit_centi,
                "weight": card.weight,
                "memory_mib": share.memory_mib,
                "still_held_mib": share.still_held_mib,
            }
            for share, card in zip(binding.shares, limits.cards, strict=True)
        ],
    }


def change(
    store: SlotStore, cards: Sequence[Card], namespace: str, pod: str, container: str, fields: Mapping[str, int]
) -> dict[str, Any]:
    """Change a container's limits and return its slice.

    Args:
        fields: some of :data:`FIELDS`, as :func:`~tessera_vgpu.bindings.resized` takes them.

    Raises:
        VgpuError: ``control.field``, or of :meth:`~tessera_vgpu.slots.SlotStore.resize`.
    """
    if unknown := sorted(set(fields) - FIELDS):
        raise VgpuError(
            "control.field",
            "A slice has no field {name}.",
            "Known: {fields}.",
            name=unknown[0][:64],
            fields=", ".join(sorted(FIELDS)),
        )
    for slot in store.slots():
        owner = slot.binding.owner if slot.binding is not None else None
        if owner is not None and (owner.namespace, owner.pod, owner.container) == (namespace, pod, container):
            changed = store.resize(slot.nonce, cards, **fields)
            assert changed.binding is not None
            return describe(changed, changed.binding)
    raise VgpuError("slots.no_slice", "There is no such slice on this node.", "All are listed by: tessera vgpu status")


def ask(socket: Path, namespace: str, pod: str, container: str, fields: Mapping[str, int]) -> dict[str, Any]:
    """Ask the agent of this machine to change a container's limits, and return its slice.

    Raises:
        VgpuError: what the agent answered; ``control.unreachable``.
    """
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=30) as client:
            answer = client.patch(f"http://agent/slices/{namespace}/{pod}/{container}", json=dict(fields))
            found: dict[str, Any] = answer.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise VgpuError(
            "control.unreachable",
            "The node agent does not answer at {socket}.",
            "Run this as root on the node of the cards, where tessera vgpu agent runs.",
            socket=socket,
        ) from error
    if answer.is_error:
        raise VgpuError(*(found[key] for key in ("code", "message", "hint")), **found["values"])
    return found
