"""What a pod asks for: resources of its containers and annotations, as a request to the chooser."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from tessera_vgpu.bindings import Terms
from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD
from tessera_vgpu.choosing import Request
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.pages import DeviceMode

RESOURCE: Final = "tessera.io/vgpu"
MEMORY_RESOURCE: Final = "tessera.io/vgpu-memory"
PREFIX: Final = "vgpu.tessera.io/"
ANNOTATIONS: Final = ("card-model", "limit", "priority", "weight", "devices", "max-cards", "exclusive")
Value = TypeVar("Value")
_DEVICES: Final = {"cards": DeviceMode.CARDS, "one": DeviceMode.ONE_DEVICE}
_SUFFIXES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_QUANTITY: Final = re.compile(r"(\d{1,18})(k|M|G|Ki|Mi|Gi)?")


def quantity(text: object) -> int:
    """Return a whole amount of Kubernetes, which writes 1000 as ``1k``.

    Raises:
        VgpuError: ``request.quantity``.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise VgpuError("request.quantity", "{text} is not a whole amount.", "Write a number, such as 8192.", text=str(text)[:64])
    return int(match[1]) * _SUFFIXES[match[2] or ""]


def asked(pod: Mapping[str, Any], containers: Iterable[str], centi_cards: int) -> tuple[Request, Terms]:
    """Return what these containers of a pod ask for; of containers that share their devices the larger memory counts.

    Args:
        pod: as the API server gives it.
        centi_cards: the number of device ids.

    Raises:
        VgpuError: ``request.annotation``, ``request.quantity``, ``request.amount``, ``request.cards``.
    """
    names = set(containers)
    spec = pod["spec"]
    memory = [
        quantity(limits[MEMORY_RESOURCE])
        for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
        if container["name"] in names and MEMORY_RESOURCE in (limits := (container.get("resources") or {}).get("limits") or {})
    ]
    notes = {
        name.removeprefix(PREFIX): str(value)
        for name, value in (pod["metadata"].get("annotations") or {}).items()
        if name.startswith(PREFIX)
    }
    if unknown := sorted(set(notes) - set(ANNOTATIONS)):
        raise _refused(unknown[0], notes[unknown[0]], "one of " + ", ".join(ANNOTATIONS))
    request = Request(
        centi_cards,
        max(memory, default=None),
        max_cards=_number(notes, "max-cards", 1, 1, 1024),
        exclusive=_choice(notes, "exclusive", {"true": True, "false": False}, "false"),
        model=notes.get("card-model"),
    )
    if centi_cards > CENTI_CARDS_PER_CARD * request.max_cards:
        raise VgpuError(
            "request.cards",
            "{centi_cards} hundredths of a card do not come from at most {max_cards} cards.",
            'More than one card needs the annotation {name}: "{count}".',
            centi_cards=centi_cards,
            max_cards=request.max_cards,
            name=PREFIX + "max-cards",
            count=-(-centi_cards // CENTI_CARDS_PER_CARD),
        )
    limit = _number(notes, "limit", centi_cards, centi_cards, CENTI_CARDS_PER_CARD * request.max_cards)
    terms = Terms(
        limit_centi_cards=limit,
        priority_class=_number(notes, "priority", 0, 0, 1000),
        weight=_number(notes, "weight", 1, 1, 10_000),
        mode=_choice(notes, "devices", _DEVICES, "cards"),
    )
    return request, terms


def _number(notes: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = notes.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,6}", text) or not least <= int(text) <= most:
        raise _refused(name, text, f"a number from {least} to {most}")
    return int(text)


def _choice(notes: Mapping[str, str], name: str, choices: Mapping[str, Value], default: str) -> Value:
    text = notes.get(name, default)
    if text not in choices:
        raise _refused(name, text, "one of " + ", ".join(choices))
    return choices[text]


def _refused(name: str, value: str, wanted: str) -> VgpuError:
    return VgpuError(
        "request.annotation",
        "The annotation {name} cannot be {value}.",
        "It must be {wanted}.",
        name=PREFIX + name[:64],
        value=repr(value[:64]),
        wanted=wanted,
    )
