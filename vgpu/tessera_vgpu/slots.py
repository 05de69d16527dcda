"""What this node has promised: answers to the kubelet, the pods they belong to, and the cards these have.

One file a promise, ``journal/<nonce>.json``, is the truth. It is replaced by rename, so each change is there wholly or not at
all, and it is written *before* the kubelet is answered or a file is made for a container. What a container sees,
``slots/<nonce>``, is derived from it and made again after a crash. An emptied folder (a reboot) is an empty journal: the kubelet
still knows its nonces, and :meth:`SlotStore.remember` takes them back.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Final

from tessera_vgpu.bindings import Binding, Contexts, Owner, Share, Slot, Terms, decode, encode, held, resized
from tessera_vgpu.cards import Card
from tessera_vgpu.catalogue import CENTI_CARDS_PER_CARD
from tessera_vgpu.choosing import Request, choose
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.pages import Limits, change_limits, create_limits, create_usage, read_limits, sync_folder
from tessera_vgpu.splitting import Topology, in_proportion
from tessera_vgpu.turns import create_turns, write_rosters

_NONCE: Final = re.compile(r"[0-9a-f]{32}")

MakeDevices = Callable[[Path, Sequence[str]], None]
"""Makes the device nodes of cards (by UUID) in a new folder."""


class SlotStore:
    """The journal and the folders of one node. One agent at a time; safe to call from several threads.

    ``slots/<nonce>/limits`` (read-only for the container), ``usage`` and ``turns`` (its own) and ``dev`` are made when the pod is
    known; ``dev`` comes last, so that a container that starts has all of them. ``node`` is read-only for all of them: what each
    says of its turns, and who has a part of which card.

    Args:
        folder: state directory; a restart of the machine may empty it.
        make_devices: called before a container starts for the first time.
        contexts: what the contexts of processes need; None: nobody keeps room for them, and their number is not limited.

    Raises:
        VgpuError: ``slots.locked``, ``slots.damaged``.
    """

    def __init__(self, folder: Path, make_devices: MakeDevices, contexts: Contexts | None = None) -> None:
        self.journal: Final = folder / "journal"
        self.folders: Final = folder / "slots"
        self.node: Final = folder / "node"
        for made in (folder, self.journal, self.folders):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.node.mkdir(mode=0o755, exist_ok=True)
        self._make_devices = make_devices
        self._contexts = contexts
        self._lock = RLock()
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise VgpuError(
                "slots.locked",
                "Another node agent uses {folder}.",
                "Stop it, or give each its own folder; two on one node would give cards away twice.",
                folder=folder,
            ) from error
        self._slots: dict[str, Slot] = {}
        self._held_back: frozenset[tuple[str, str]] = frozenset()
        try:
            self._adopt()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another agent use the folder. What containers have stays."""
        os.close(self._file)

    def slots(self) -> tuple[Slot, ...]:
        """Return all promises."""
        with self._lock:
            return tuple(self._slots.values())

    def folder(self, nonce: str) -> Path:
        """Return what a container sees of a promise."""
        return self.folders / nonce

    def free(self, cards: Iterable[Card]) -> list[Card]:
        """Return these idle cards with what pods have taken off. A card that shrank meanwhile is full, not negative."""
        with self._lock:
            taken = held(slot.binding for slot in self._slots.values() if slot.binding is not None)
        found: list[Card] = []
        for card in cards:
            if (mine := taken.get(card.uuid)) is not None:
                centi = 0 if mine.exclusive else max(card.free_centi_cards - mine.centi_cards, 0)
                memory = 0 if mine.exclusive else max(card.free_memory_mib - mine.memory_mib, 0)
                card = replace(card, free_centi_cards=centi, free_memory_mib=memory)  # noqa: PLW2901
            found.append(card)
        return found

    def allocate(self, device_ids: Iterable[str]) -> Slot:
        """Promise these device ids, whose pod is not known yet; durable when this returns."""
        return self.remember(secrets.token_hex(16), device_ids)

    def remember(self, nonce: str, device_ids: Iterable[str]) -> Slot:
        """Take back a promise that the kubelet knows and this folder has lost.

        Raises:
            VgpuError: ``slots.nonce``, ``slots.empty``.
        """
        slot = Slot(nonce, tuple(sorted(set(device_ids))))
        if not _NONCE.fullmatch(nonce):
            raise VgpuError("slots.nonce", "{nonce} is no nonce of a node agent.", nonce=nonce[:64])
        if not slot.device_ids:
            raise VgpuError("slots.empty", "A container asked for no device.")
        with self._lock:
            if nonce in self._slots:
                return self._slots[nonce]
            self._write(slot)
        return slot

    def bind(
        self,
        device_ids: Iterable[str],
        owner: Owner,
        request: Request,
        cards: Sequence[Card],
        terms: Terms | None = None,
        topology: Topology | None = None,
    ) -> tuple[Slot, ...]:
        """Give the promises of these device ids to a pod, and make what its container sees. Repeated, it gives the same cards.

        Args:
            request: its compute is taken from the number of device ids.
            cards: all cards of the node, idle; what others have is taken off here.

        Raises:
            VgpuError: ``slots.unknown`` (no such promise, or it is another pod's), or of :func:`~tessera_vgpu.choosing.choose`.
        """
        wanted = tuple(sorted(set(device_ids)))
        with self._lock:
            mine = [
                slot
                for slot in self._slots.values()
                if slot.device_ids == wanted and (slot.binding is None or slot.binding.owner.pod_uid == owner.pod_uid)
            ]
            if not mine:
                raise VgpuError(
                    "slots.unknown",
                    "No answer of this node agent belongs to pod {pod}, container {container}.",
                    "Delete the pod; its controller makes another.",
                    pod=owner.pod,
                    container=owner.container,
                )
            binding = next((slot.binding for slot in mine if slot.binding is not None), None)
            if binding is None:
                binding = self._choose(wanted, owner, request, cards, terms or Terms(), topology)
            bound = tuple(replace(slot, binding=slot.binding or binding) for slot in mine)
            for slot in bound:
                if self._slots[slot.nonce] != slot:
                    self._write(slot)
                self._realise(slot)
            self._tell_neighbours()
            return bound

    def resize(
        self,
        nonce: str,
        cards: Sequence[Card],
        memory_mib: int | None = None,
        limit_centi_cards: int | None = None,
        weight: int | None = None,
    ) -> Slot:
        """Change what a living container may use; in force at once for what it asks for from now on. What is None stays.

        The journal is first: killed in between, the next agent brings the container's page after it. Memory that is made less
        is not free for others before :meth:`settle`.

        Raises:
            VgpuError: ``slots.no_slice``, ``placement.no_room``, or of :func:`~tessera_vgpu.bindings.resized`.
        """
        with self._lock:
            slot = self._slots.get(nonce)
            if slot is None or slot.binding is None:
                raise VgpuError("slots.no_slice", "There is no such slice on this node.")
            changed = replace(slot, binding=resized(slot.binding, memory_mib, limit_centi_cards, weight))
            assert changed.binding is not None
            self._check(changed.binding, cards, but=nonce)
            self._write(changed)
            self._realise(changed)
            self._tell_neighbours()
            return changed

    def hold_back(self, held_back: Collection[tuple[str, str]]) -> None:
        """Let these containers have no more of these cards' time than they requested, and all others their limits.

        It holds as long as this store is open: who opens the folder next gives everybody its limit.

        Args:
            held_back: nonces with UUIDs.
        """
        with self._lock:
            if self._held_back == frozenset(held_back):
                return
            changed = self._held_back ^ frozenset(held_back)
            before, self._held_back = self._held_back, frozenset(held_back)
            try:
                for nonce in {nonce for nonce, _uuid in changed} & set(self._slots):
                    if self._slots[nonce].binding is not None:
                        self._realise(self._slots[nonce])
                self._tell_neighbours()
            except BaseException:
                self._held_back = before
                raise

    def limits(self, nonce: str, binding: Binding) -> Limits:
        """Return the limits that are in force for a promise."""
        limits = binding.limits(self._contexts)
        cards = (
            replace(card, compute_limit_centi=card.compute_request_centi) if (nonce, card.uuid) in self._held_back else card
            for card in limits.cards
        )
        return replace(limits, cards=tuple(cards))

    def settle(self, nonce: str, uuid: str) -> None:
        """Give to others what a container had of a card before its memory was made less: it has been seen to hold it no more."""
        with self._lock:
            slot = self._slots.get(nonce)
            if (
                slot is not None
                and slot.binding is not None
                and any(s.uuid == uuid and s.still_held_mib for s in slot.binding.shares)
            ):
                shares = tuple(replace(s, still_held_mib=0) if s.uuid == uuid else s for s in slot.binding.shares)
                self._write(replace(slot, binding=replace(slot.binding, shares=shares)))

    def release(self, pod_uid: str) -> int:
        """Take back what a pod had, which is gone; return how many promises that were."""
        with self._lock:
            mine = [s.nonce for s in self._slots.values() if s.binding is not None and s.binding.owner.pod_uid == pod_uid]
            for nonce in mine:
                self.forget(nonce)
            return len(mine)

    def forget(self, nonce: str) -> None:
        """Take back one promise, such as one whose pod never started."""
        with self._lock:
            if nonce in self._slots:
                # The folder first: while the journal has the promise, its cards are not given to others.
                self._remove_folder(nonce)
                (self.journal / f"{nonce}.json").unlink(missing_ok=True)
                sync_folder(self.journal)
                del self._slots[nonce]
                self._tell_neighbours()

    def prune(self, known: Collection[str], older_than_s: float) -> int:
        """Take back promises that no pod came for and that the kubelet does not know; return how many that were.

        Args:
            known: the nonces in the kubelet's checkpoint.
            older_than_s: a younger answer may not be in it yet.
        """
        with self._lock:
            limit = time.time() - older_than_s
            lost = [
                slot.nonce
                for slot in self._slots.values()
                if slot.binding is None
                and slot.nonce not in known
                and (self.journal / f"{slot.nonce}.json").stat().st_mtime <= limit
            ]
            for nonce in lost:
                self.forget(nonce)
            return len(lost)

    def _choose(
        self,
        wanted: tuple[str, ...],
        owner: Owner,
        request: Request,
        cards: Sequence[Card],
        terms: Terms,
        topology: Topology | None,
    ) -> Binding:
        """Choose cards for device ids; those that the pod has already (from an init container) stay on their cards."""
        of_pod = [s.binding for s in self._slots.values() if s.binding is not None and s.binding.owner.pod_uid == owner.pod_uid]
        known = {device: share.uuid for binding in of_pod for share in binding.shares for device in share.device_ids}
        place = {device: known[device] for device in wanted if device in known}
        new = [device for device in wanted if device not in known]
        memory: dict[str, int] = {}
        if new:
            asked = request.memory_mib
            if asked is not None and place:
                asked = max(asked * len(new) // len(wanted), 1)
            rest = iter(new)
            free = self.free(cards)
            for part in choose(free, replace(request, centi_cards=len(new), memory_mib=asked), topology).parts:
                place |= {next(rest): part.uuid for _centi_card in range(part.centi_cards)}
                memory[part.uuid] = part.memory_mib
        ids = {uuid: tuple(d for d in wanted if place[d] == uuid) for uuid in dict.fromkeys(place.values())}
        if len(new) < len(wanted):
            counts = [len(mine) for mine in ids.values()]
            sizes = {card.uuid: card.memory_mib for card in cards}
            own = [sizes.get(uuid, 0) * count // CENTI_CARDS_PER_CARD for uuid, count in zip(ids, counts, strict=True)]
            parts = own if request.memory_mib is None else in_proportion(request.memory_mib, counts)
            memory = {uuid: max(part, 1) for uuid, part in zip(ids, parts, strict=True)}  # no card without memory
        binding = Binding(owner, tuple(Share(u, mine, memory[u]) for u, mine in ids.items()), request.exclusive, terms)
        self._check(binding, cards)
        return binding

    def _check(self, binding: Binding, cards: Sequence[Card], but: str = "") -> None:
        """Refuse what would hold more of a card than it has; the last word, whatever chose. The promise *but* is not counted.

        Raises:
            VgpuError: ``placement.no_room``.
        """
        others = [slot.binding for slot in self._slots.values() if slot.binding is not None and slot.nonce != but]
        room = {card.uuid: card for card in cards}
        per_card = self._contexts.per_card if self._contexts is not None else 0
        for uuid, taken in held([*others, binding], per_card).items():
            card = room.get(uuid)
            mine = any(share.uuid == uuid for share in binding.shares)
            if mine and (
                card is None
                or taken.centi_cards > CENTI_CARDS_PER_CARD
                or taken.memory_mib > card.memory_mib
                or taken.contexts > per_card
            ):
                raise VgpuError(
                    "placement.no_room",
                    "This node has not enough left for {centi_cards} hundredths of a card and {memory_mib} MiB.",
                    "Wait until others end, ask for less, or let it be split over more cards by vgpu.tessera.io/max-cards.",
                    centi_cards=sum(len(share.device_ids) for share in binding.shares),
                    memory_mib=sum(share.memory_mib for share in binding.shares),
                )

    def _write(self, slot: Slot) -> None:
        """Put a promise into the journal; the change is durable when this returns, or has not happened."""
        path = self.journal / f"{slot.nonce}.json"
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, encode(slot))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        sync_folder(self.journal)
        self._slots[slot.nonce] = slot

    def _realise(self, slot: Slot) -> None:
        """Make what a bound promise's container sees, or what is missing of it."""
        assert slot.binding is not None
        folder = self.folder(slot.nonce)
        folder.mkdir(mode=0o755, exist_ok=True)
        limits = self.limits(slot.nonce, slot.binding)
        try:
            there = read_limits(folder / "limits")[1]
        except VgpuError:
            there = None
        if there is None or [card.uuid for card in there.cards] != [card.uuid for card in limits.cards]:
            create_limits(folder / "limits", limits)
        elif there != limits:
            # In place, since processes have it mapped: the journal was ahead of it.
            change_limits(folder / "limits", limits)
        if not (folder / "usage").exists():
            new = folder / ".usage"
            new.unlink(missing_ok=True)
            create_usage(new)
            new.replace(folder / "usage")
        create_turns(folder / "turns", self.node, slot.nonce)
        if not (folder / "dev").exists():
            nodes = folder / ".dev"
            shutil.rmtree(nodes, ignore_errors=True)
            nodes.mkdir(mode=0o755)
            self._make_devices(nodes, [share.uuid for share in slot.binding.shares])
            nodes.replace(folder / "dev")
        sync_folder(folder)

    def _remove_folder(self, nonce: str) -> None:
        """Remove what a container saw, ``dev`` at once, so that nothing starts on the rest."""
        folder = self.folder(nonce)
        if (folder / "dev").exists():
            (folder / "dev").rename(folder / f".gone-{secrets.token_hex(4)}")
        if folder.exists():
            shutil.rmtree(folder)
        sync_folder(self.folders)

    def _adopt(self) -> None:
        """Read the journal, finish what a crash left undone, and remove what no promise stands for."""
        for leftover in self.journal.glob("*.new"):
            leftover.unlink()
        for path in sorted(self.journal.glob("*.json")):
            try:
                slot = decode(path.read_bytes())
                if slot.nonce != path.stem or not _NONCE.fullmatch(slot.nonce):
                    raise ValueError("the name of the file is not that of the promise")
            except ValueError as error:
                raise VgpuError(
                    "slots.damaged",
                    "The promise in {file} cannot be read: {reason}.",
                    "Drain the node, empty the folder and start the node agent again.",
                    file=path,
                    reason=error,
                ) from error
            self._slots[slot.nonce] = slot
        for folder in list(self.folders.iterdir()):
            if folder.name not in self._slots:
                shutil.rmtree(folder)
        for slot in self._slots.values():
            if slot.binding is not None:
                self._realise(slot)
        self._tell_neighbours()

    def _tell_neighbours(self) -> None:
        bound = {slot.nonce: slot.binding for slot in self._slots.values() if slot.binding is not None}
        write_rosters(self.node, {nonce: self.limits(nonce, binding) for nonce, binding in bound.items()})
