"""Simulated cards: reads their descriptions, writes the file that the simulated driver shares, starts programs on it.

The simulator itself is C (``vgpu/simulator``); its layout is ``core/description.h`` there, which the structures below repeat.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tessera_vgpu.errors import VgpuError

STATE_VARIABLE: Final = "GPU_SIMULATOR_STATE"
VGPU: Final = Path(__file__).resolve().parents[1]
CARDS: Final = VGPU / "simulator" / "cards"
LIBRARIES: Final = VGPU / "build" / "simulator"
RUNTIME: Final = "libcudart.so.13"
MAX_CARDS: Final = 16
MAX_PROFILES: Final = 16
MAX_STARTS: Final = 8
_MAGIC: Final = 0x31554D4953555047
_VERSION: Final = 1
_PARTS_PER_MILLION: Final = 1_000_000
_WANTED: Final = re.compile(r"(?:(\d+)x)?([A-Za-z0-9.-]+)")

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """A misspelt key is refused, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Profile(Strict):
    """A GPU instance of MIG; names as in ``nvmlGpuInstanceProfileInfo_v3_t``, ``starts`` and ``size`` in memory slices."""

    name: Annotated[str, Field(max_length=31)]
    nvml: Natural
    id: Natural
    slices: Positive
    instances: Positive
    multiprocessors: Positive
    copy_engines: Natural
    decoders: Natural
    jpegs: Natural
    ofas: Natural
    memory_mib: Positive
    starts: Annotated[list[Natural], Field(min_length=1, max_length=MAX_STARTS)]
    size: Positive


class Mig(Strict):
    """The card's MIG table. ``reset_required``: a change of the mode waits for a reset of the card, as on Ampere."""

    memory_slices: Positive
    max_instances: Positive
    reset_required: bool = False
    profiles: Annotated[list[Profile], Field(min_length=1, max_length=MAX_PROFILES)]


class Card(Strict):
    """One model, ``vgpu/simulator/cards/*.yaml``. Units are in the names."""

    name: str
    product: Annotated[str, Field(max_length=95)]
    architecture: Positive
    compute_capability: tuple[Positive, Natural]
    pci_device: Positive
    memory_mib: Positive
    reserved_mib: Natural
    context_mib: Natural
    multiprocessors: Positive
    threads_per_multiprocessor: Positive
    shared_memory_per_multiprocessor: Positive
    shared_memory_per_block_optin: Positive
    l2_cache_bytes: Positive
    clock_khz: Positive
    memory_clock_khz: Positive
    memory_bus_bits: Positive
    power_limit_mw: Positive
    slice_ns: Positive
    switch_ns: Natural
    launch_host_ns: Natural
    launch_device_ns: Natural
    graph_node_ns: Natural
    event_host_ns: Natural
    event_device_ns: Natural
    context_create_ns: Natural
    allocation_host_ns: Natural
    copy_latency_ns: Natural
    host_copy_bytes_per_us: Positive
    device_copy_bytes_per_us: Positive
    fill_bytes_per_us: Positive
    utilisation_period_ns: Positive
    utilisation_window_ns: Positive
    utilisation_lag_ns: Natural
    mig: Mig | None = None


_PROFILE_NUMBERS: Final = (
    *("nvml", "id", "slices", "instances", "multiprocessors", "copy_engines", "decoders", "jpegs", "ofas", "memory_mib", "size"),
)
_CARD_NUMBERS: Final = (
    *("memory_mib", "reserved_mib", "context_mib", "multiprocessors", "threads_per_multiprocessor"),
    *("shared_memory_per_multiprocessor", "shared_memory_per_block_optin", "l2_cache_bytes", "clock_khz", "memory_clock_khz"),
    *("memory_bus_bits", "power_limit_mw", "slice_ns", "switch_ns", "launch_host_ns", "launch_device_ns", "graph_node_ns"),
    *("event_host_ns", "event_device_ns", "context_create_ns", "allocation_host_ns", "copy_latency_ns"),
    *("host_copy_bytes_per_us", "device_copy_bytes_per_us", "fill_bytes_per_us"),
    *("utilisation_period_ns", "utilisation_window_ns", "utilisation_lag_ns"),
)


class _ProfileDescription(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 32),
        *((name, ctypes.c_uint64) for name in _PROFILE_NUMBERS),
        ("start_count", ctypes.c_uint64),
        ("starts", ctypes.c_uint64 * MAX_STARTS),
    )


class _CardDescription(ctypes.Structure):
    _fields_ = (
        ("product", ctypes.c_char * 96),
        ("uuid", ctypes.c_char * 48),
        ("bus_id", ctypes.c_char * 32),
        *((name, ctypes.c_uint64) for name in ("architecture", "capability_major", "capability_minor", "pci_device")),
        *((name, ctypes.c_uint64) for name in _CARD_NUMBERS),
        *((name, ctypes.c_uint64) for name in ("mig_memory_slices", "mig_max_instances", "mig_reset_required", "profile_count")),
        ("profiles", _ProfileDescription * MAX_PROFILES),
    )


class _MachineDescription(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("magic", "version", "bytes", "card_bytes", "card_count", "clock", "dilation_ppm")),
        ("driver_version", ctypes.c_uint64),
        ("driver_release", ctypes.c_char * 32),
        ("monotonic_base_ns", ctypes.c_uint64),
        ("wall_base_us", ctypes.c_uint64),
        ("cards", _CardDescription * MAX_CARDS),
    )


def read_cards(folder: Path = CARDS) -> dict[str, Card]:
    """Return the models that *folder* describes, by name.

    Raises:
        VgpuError: ``simulate.description``, a file there is not what it should be.
    """
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            card = Card.model_validate(yaml.safe_load(path.read_text("utf-8")))
        except (ValidationError, yaml.YAMLError) as error:
            raise VgpuError("simulate.description", "{path} does not describe a card: {error}", path=path, error=error) from error
        found[card.name] = card
    return found


def parse_cards(wanted: str, models: Mapping[str, Card]) -> list[Card]:
    """Return the cards that a text such as ``2xA100-80G,1xT4-16G`` asks for.

    Raises:
        VgpuError: ``simulate.cards``, it asks for none, for too many, or for a model that is not there.
    """
    chosen: list[Card] = []
    for word in wanted.split(","):
        match = _WANTED.fullmatch(word.strip())
        if match is None or match[2] not in models:
            raise VgpuError(
                "simulate.cards",
                "There is no simulated card {word}.",
                "Known: {models}.",
                word=word.strip(),
                models=", ".join(sorted(models)),
            )
        chosen += [models[match[2]]] * int(match[1] or 1)
    if not 0 < len(chosen) <= MAX_CARDS:
        raise VgpuError("simulate.cards", "A machine has 1 to {most} cards, not {count}.", most=MAX_CARDS, count=len(chosen))
    return chosen


def scaled(card: Card, slice_scale: float = 1.0, switch_scale: float = 1.0) -> Card:
    """Return the card with other costs of sharing, to see what depends on them."""
    return card.model_copy(
        update={
            "slice_ns": max(1, round(card.slice_ns * slice_scale)),
            "switch_ns": round(card.switch_ns * switch_scale),
        }
    )


def _describe(card: Card, place: int, seed: str) -> _CardDescription:
    described = _CardDescription(
        product=card.product.encode(),
        uuid=f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{seed}/{place}')}".encode(),
        bus_id=f"00000000:{place + 0x17:02X}:00.0".encode(),
        architecture=card.architecture,
        capability_major=card.compute_capability[0],
        capability_minor=card.compute_capability[1],
        pci_device=card.pci_device,
        **{name: getattr(card, name) for name in _CARD_NUMBERS},
    )
    if card.mig is not None:
        described.mig_memory_slices = card.mig.memory_slices
        described.mig_max_instances = card.mig.max_instances
        described.mig_reset_required = card.mig.reset_required
        described.profile_count = len(card.mig.profiles)
        for place_in_table, profile in enumerate(card.mig.profiles):
            row = described.profiles[place_in_table]
            row.name = profile.name.encode()
            for name in _PROFILE_NUMBERS:
                setattr(row, name, getattr(profile, name))
            row.start_count = len(profile.starts)
            for number, start in enumerate(profile.starts):
                row.starts[number] = start
    return described


class CardUse(BaseModel):
    """What happened on one card since the beginning: time with a kernel on it, and time that changes of context took."""

    used_bytes: int
    capacity_bytes: int
    busy_ns: int
    switching_ns: int


class ProcessCardUse(BaseModel):
    """What one process has of one card, and its time with a kernel on it."""

    used_bytes: int
    busy_ns: int


class ProcessUse(BaseModel):
    """One process of the machine; ``cards`` in the machine's order."""

    pid: int
    cards: list[ProcessCardUse]


class Snapshot(BaseModel):
    """The simulator's truth at simulated time ``now_ns``."""

    now_ns: int
    cards: list[CardUse]
    processes: list[ProcessUse]


@dataclass(frozen=True)
class Machine:
    """A simulated machine: its file of state, the libraries that programs find, and its cards with their UUIDs."""

    state: Path
    libraries: Path = LIBRARIES
    cards: tuple[Card, ...] = ()
    uuids: tuple[str, ...] = ()

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return *base*, or this process's environment, with what makes a program run on the simulated cards."""
        environment = dict(os.environ if base is None else base)
        before = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = f"{self.libraries}:{before}" if before else str(self.libraries)
        environment[STATE_VARIABLE] = str(self.state)
        return environment

    def inspect(self) -> Snapshot:
        """Return what the simulator knows of its cards and processes now.

        Raises:
            subprocess.CalledProcessError: the file of state is gone or of another version.
        """
        command = [str(self.libraries / "inspect")]
        done = subprocess.run(command, env=self.environment(), check=True, capture_output=True)  # noqa: S603 - our own program
        return Snapshot.model_validate_json(done.stdout)

    def run(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Run a program on the simulated cards, with this process's input and output, and return its exit status.

        The simulated CUDA runtime is loaded first, since programs name the folder of NVIDIA's, which no other driver satisfies.
        """
        given = self.environment(environment)
        given["LD_PRELOAD"] = " ".join(filter(None, (given.get("LD_PRELOAD"), str(self.libraries / RUNTIME))))
        return subprocess.run(list(command), env=given, check=False).returncode  # noqa: S603 - the caller's own program


def make_machine(
    state: Path,
    cards: Sequence[Card],
    *,
    virtual_clock: bool = False,
    dilation: float = 1.0,
    driver_version: int = 13000,
    driver_release: str = "580.95.05",
    mode: int = 0o600,
    libraries: Path = LIBRARIES,
) -> Machine:
    """Write the file of a machine with *cards*; the first program on it completes it.

    Args:
        state: where; what is there is replaced. Shared memory of processes is made beside it, under the same name with an ending.
        cards: at most 16.
        virtual_clock: time passes by calls only, so measured times are exact.
        dilation: real seconds for a simulated one, for example 5 when many processes share few processors.
        driver_version, driver_release: as the CUDA driver and NVML say them.
        mode: permissions of the file; 0o666 lets programs of other users take part.

    Raises:
        VgpuError: ``simulate.cards``, too many cards; ``simulate.libraries``, the libraries are not built.
    """
    if not 0 < len(cards) <= MAX_CARDS:
        raise VgpuError("simulate.cards", "A machine has 1 to {most} cards, not {count}.", most=MAX_CARDS, count=len(cards))
    if not (libraries / "libcuda.so.1").exists():
        raise VgpuError(
            "simulate.libraries", "The simulated driver is not in {folder}.", "Build it with: make simulator", folder=libraries
        )
    described = _MachineDescription(
        magic=_MAGIC,
        version=_VERSION,
        bytes=ctypes.sizeof(_MachineDescription),
        card_bytes=ctypes.sizeof(_CardDescription),
        card_count=len(cards),
        clock=int(virtual_clock),
        dilation_ppm=round(dilation * _PARTS_PER_MILLION),
        driver_version=driver_version,
        driver_release=driver_release.encode(),
        monotonic_base_ns=time.monotonic_ns(),
        wall_base_us=time.time_ns() // 1000,
    )
    for place, card in enumerate(cards):
        described.cards[place] = _describe(card, place, state.name)
    fresh = state.with_name(f"{state.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.write_bytes(bytes(described))
    fresh.chmod(mode)
    fresh.replace(state)
    uuids = tuple(described.cards[place].uuid.decode("ascii") for place in range(len(cards)))
    return Machine(state, libraries, tuple(cards), uuids)
