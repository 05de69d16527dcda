"""The node agent as one process: its parts, its loops, and how it begins and ends.

All that must survive is in the folders of :class:`~tessera_vgpu.slots.SlotStore`; killed at any moment, the process leaves
containers with the limits they have, and the next one takes up what it finds.
"""

from __future__ import annotations

import logging
import signal
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, Final

from tessera_vgpu import catalogue
from tessera_vgpu.agent.calibration import CALIBRATION, measured
from tessera_vgpu.agent.delivery import DriverFiles, inodes, install
from tessera_vgpu.agent.driver import Driver, DriverCard
from tessera_vgpu.agent.evidence import Sources
from tessera_vgpu.agent.nodes import DeviceNodes
from tessera_vgpu.agent.resizing import change, describe
from tessera_vgpu.agent.simulated import FOLDER_IN_CONTAINER, SimulatedCards, simulated_cards
from tessera_vgpu.agent.view import Finding, write_seen
from tessera_vgpu.agent.watch import Rules, Watch
from tessera_vgpu.agent.web import ControlServer, MetricsServer
from tessera_vgpu.apiserver import ApiServer
from tessera_vgpu.bindings import Contexts, Owner
from tessera_vgpu.cards import Card, new_card
from tessera_vgpu.errors import VgpuError
from tessera_vgpu.plugin import Container, DevicePlugin, Kubelet
from tessera_vgpu.serving import PluginServer
from tessera_vgpu.slots import SlotStore

LOG: Final = logging.getLogger(__name__)
SOCKET: Final = "control.sock"
_BYTES_PER_MIB: Final = 1 << 20
_THOROUGH: Final = 4
"""Every so many looks all processes of pods are looked at."""
_STALE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are on this node, and what the operator wants.

    Attributes:
        state: promises and what containers see; the same path on the node and where the agent runs, as are the next two.
        library_folder: where the library is kept for containers; on a file system that is not mounted noexec.
        library: the library itself.
        node: name of this node in Kubernetes.
        token_file, ca_file: None without.
        device_root: where the machine's device nodes are.
        driver_files: the driver's libraries.
        listen: host and port of the metrics.
        contexts: processes with a context that each card keeps room for.
        context_mib: what one costs; None: measured.
        tolerance_mib: see :class:`~tessera_vgpu.agent.watch.Rules`.
        simulated: cards to simulate, such as ``2xA100-80G``; None: the machine's own.
        end_bypass: kill processes that go around their limits.
        look_s, upkeep_s: how often cards and processes, and Kubernetes, are looked at.
    """

    state: Path
    library_folder: Path
    library: Path
    node: str
    api_server: str
    token_file: Path | None = None
    ca_file: Path | None = None
    kubelet: Kubelet = field(default_factory=Kubelet)
    device_root: Path = Path("/dev")
    driver_files: DriverFiles = field(default_factory=DriverFiles)
    listen: tuple[str, int] = ("127.0.0.1", 9445)
    catalogues: tuple[Path, ...] = (catalogue.BUILT_IN,)
    contexts: int = 32
    context_mib: int | None = None
    tolerance_mib: int = 256
    simulated: str | None = None
    end_bypass: bool = False
    look_s: float = 0.5
    upkeep_s: float = 5.0


class KnownPods:
    """The API server's pods, and the names of their containers as they were at the last answer."""

    def __init__(self, client: ApiServer) -> None:
        self._client = client
        self.names: Mapping[str, str] = {}
        """Container id → name."""

    def pods(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the node's pods by UID.

        Raises:
            VgpuError: ``apiserver.unreachable``.
        """
        found = self._client.pods()
        self.names = {
            str(status["containerID"]).rpartition("//")[2]: str(status["name"])
            for pod in found.values()
            for kind in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
            for status in pod["status"].get(kind) or ()
            if status.get("containerID")
        }
        return found


class Agent:
    """All parts of one node's agent.

    Raises:
        VgpuError: something that it needs is not there; the message says what.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = Event()
        self._failed: BaseException | None = None
        simulated = None if settings.simulated is None else simulated_cards(settings.state, settings.simulated)
        if simulated is not None:
            simulated.use()
        self._driver = Driver(settings.driver_files.find("libnvidia-ml.so.1"))
        models = catalogue.load(settings.catalogues)
        found = self._driver.cards()
        contexts = self._contexts(found, models)
        self._cards = [card for one in found if (card := _card(one, models, contexts)) is not None]
        if not self._cards:
            raise VgpuError(
                "cards.none",
                "No card of this node can be shared.",
                "Run the node agent only where there are cards of the catalogue; those with MIG on are not shared.",
            )
        self._healthy = frozenset(card.uuid for card in self._cards)
        mounts = install(settings.library, settings.library_folder)
        mounts |= settings.driver_files.mounts()
        nodes = DeviceNodes(
            settings.device_root if simulated is None else simulated.nodes, {card.uuid: card.minor for card in found}
        )
        self._store = SlotStore(settings.state, nodes.make, contexts)
        trust: ssl.SSLContext | bool = True
        if settings.ca_file is not None:
            trust = ssl.create_default_context(cafile=str(settings.ca_file))
        self._client = ApiServer(settings.api_server, settings.node, settings.token_file, trust)
        self._pods = KnownPods(self._client)
        self._plugin = DevicePlugin(
            self._store,
            lambda: [card for card in self._cards if card.uuid in self._healthy],
            len(self._cards),
            self._pods,
            settings.kubelet,
            _container(mounts, simulated),
            self._driver.topology(),
        )
        self._server = PluginServer(self._plugin, failed=self._end)
        self._findings: SimpleQueue[tuple[Finding, Owner]] = SimpleQueue()
        self._watch = Watch(
            Sources(self._store, self._driver),
            self._cards,
            lambda: self._healthy,
            lambda: inodes(settings.library_folder),
            lambda: self._pods.names,
            Rules(contexts, settings.tolerance_mib, settings.end_bypass),
            lambda finding, owner: self._findings.put((finding, owner)),
        )
        self._looks = 0
        self._metrics = MetricsServer(settings.listen, lambda: self._watch.view, self._well)
        self._control = ControlServer(
            settings.state / SOCKET,
            lambda: [describe(slot, slot.binding) for slot in self._store.slots() if slot.binding is not None],
            lambda *words: change(self._store, self._cards, *words),
        )

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            BaseException: what no loop expected; the process ends and is started anew.
        """
        LOG.info("%d cards, %d promises taken up", len(self._cards), len(self._store.slots()))
        loops = [
            Thread(target=self._loop, args=(self._settings.look_s, self._look), name="watch", daemon=True),
            Thread(target=self._loop, args=(self._settings.upkeep_s, self._upkeep), name="upkeep", daemon=True),
        ]
        with _signals(self._stop):
            self._server.start()
            self._metrics.start()
            self._control.start()
            for loop in loops:
                loop.start()
            LOG.info("metrics at http://%s/metrics", self._metrics.address)
            self._stop.wait()
        self._server.stop()
        self._metrics.stop()
        self._control.stop()
        for loop in loops:
            # A tenant may hold one up in /proc; the kernel ends it with the process.
            loop.join(_STALE_S)
        self._store.close()
        self._client.close()
        self._driver.close()
        if self._failed is not None:
            raise self._failed

    def _contexts(self, found: list[DriverCard], models: catalogue.Catalogue) -> Contexts:
        """Return what contexts cost, measured where the operator gave no number."""
        names = {card.name: card.uuid for card in found if not card.partitioned and models.recognise(card.name) is not None}
        given = self._settings.context_mib
        if given is not None:
            of_name = dict.fromkeys(names, given * _BYTES_PER_MIB)
        else:
            library = self._settings.driver_files.find("libcuda.so.1")
            of_name = measured(self._driver, names, self._settings.library_folder / CALIBRATION, library)
        for name, amount in of_name.items():
            LOG.info("a context on a %s costs %d MiB", name, amount // _BYTES_PER_MIB)
        return Contexts(self._settings.contexts, {card.uuid: of_name.get(card.name, 0) for card in found})

    def _loop(self, seconds: float, step: Callable[[], None]) -> None:
        """Do a step again and again. What can go wrong on a node is logged once; anything else ends the agent."""
        last = ""
        while not self._stop.is_set():
            try:
                step()
                last = ""
            except (VgpuError, OSError) as error:
                if str(error) != last:
                    LOG.warning("%s", error)
                last = str(error)
            except BaseException as error:
                LOG.exception("the node agent ends")
                self._end(error)
                raise
            self._stop.wait(seconds)

    def _end(self, error: BaseException) -> None:
        """Let :meth:`run` end with this."""
        self._failed = error
        self._stop.set()

    def _look(self) -> None:
        self._looks += 1
        try:
            self._watch.look(thorough=self._looks % _THOROUGH == 0)
        finally:
            write_seen(self._settings.state, self._watch.view)

    def _upkeep(self) -> None:
        """Keep Kubernetes and the journal in step; each part is done, whatever became of the one before."""
        failed: VgpuError | None = None
        for part in (self._check_cards, self._tell, self._plugin.reconcile, self._show_memory):
            try:
                part()
            except VgpuError as error:
                failed = error
        if failed is not None:
            raise failed

    def _check_cards(self) -> None:
        before = self._healthy
        try:
            mine = {card.uuid for card in self._cards}
            self._healthy = frozenset(card.uuid for card in self._driver.cards() if card.uuid in mine and not card.partitioned)
        except VgpuError:
            self._healthy = frozenset()
            raise
        finally:
            if self._healthy != before:
                LOG.warning("%d of %d cards are healthy", len(self._healthy), len(self._cards))
                self._plugin.cards_changed()

    def _show_memory(self) -> None:
        self._client.show_memory(sum(card.memory_mib for card in self._cards))

    def _tell(self) -> None:
        """Put what was found into the pods' events. One that cannot be told is in the log and in the metrics."""
        while True:
            try:
                finding, owner = self._findings.get_nowait()
            except Empty:
                return
            text = f"Container {owner.container} goes around the limits of its slice of {finding.card}: {finding.kind.value}."
            self._client.warn(owner.namespace, owner.pod, owner.pod_uid, "SliceBypassed", text)

    def _well(self) -> bool:
        return self._watch.fresh(_STALE_S)


def _container(mounts: Mapping[Path, Path], simulated: SimulatedCards | None) -> Container:
    """Return what containers get besides."""
    if simulated is None:
        return Container(mounts=mounts)
    environment = {**Container().environment, **simulated.environment}
    return Container(mounts=mounts, shared={simulated.state: FOLDER_IN_CONTAINER}, environment=environment)


def _card(found: DriverCard, models: catalogue.Catalogue, contexts: Contexts) -> Card | None:
    """Return a card as it can be shared, None if it cannot."""
    model = models.recognise(found.name)
    shape = model.continuous if model is not None else None
    if model is None or shape is None or shape.enforced_by != "tessera" or found.partitioned:
        LOG.warning("card %s (%s) is not shared: %s", found.uuid, found.name, "MIG is on" if found.partitioned else "unknown")
        return None
    kept = contexts.per_card * -(-contexts.bytes_of[found.uuid] // _BYTES_PER_MIB)
    memory = found.memory_mib - found.reserved_mib - kept
    if memory <= 0:
        LOG.warning("card %s is not shared: %d contexts leave no memory", found.uuid, contexts.per_card)
        return None
    return new_card(found.uuid, model.name, memory, shape, found.numa)


@contextmanager
def _signals(stop: Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the agent."""
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
