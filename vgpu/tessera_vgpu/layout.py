"""The bytes of the pages and of the roster, as ``vgpu/interposer/pages.h`` defines them."""

from __future__ import annotations

import ctypes
from typing import Final

LIMITS_MAGIC: Final = 0x31494C4152455354
USAGE_MAGIC: Final = 0x3153554152455354
TURNS_MAGIC: Final = 0x3155544152455354
ROSTER_MAGIC: Final = 0x314F524152455354
VERSION: Final = 1
MOST_SEATS: Final = 64
MOST_NEIGHBOURS: Final = 128
MOST_CARDS: Final = 16
MOST_PROCESSES: Final = 512
UUID_BYTES: Final = 96
NAME_BYTES: Final = 64


class CardLimitsBytes(ctypes.LittleEndianStructure):
    """``struct tessera_card_limits``."""

    _fields_ = (
        ("uuid", ctypes.c_char * UUID_BYTES),
        ("memory_limit_bytes", ctypes.c_uint64),
        ("context_bytes", ctypes.c_uint64),
        ("compute_request_centi", ctypes.c_uint32),
        ("compute_limit_centi", ctypes.c_uint32),
        ("weight", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class LimitsBankBytes(ctypes.LittleEndianStructure):
    """``struct tessera_limits_bank``."""

    _fields_ = (
        ("generation", ctypes.c_uint64),
        ("checksum", ctypes.c_uint32),
        ("card_count", ctypes.c_uint32),
        ("priority_class", ctypes.c_uint32),
        ("mode", ctypes.c_uint32),
        ("most_processes", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("pod_uid", ctypes.c_char * NAME_BYTES),
        ("container", ctypes.c_char * NAME_BYTES),
        ("cards", CardLimitsBytes * MOST_CARDS),
    )


class LimitsPageBytes(ctypes.LittleEndianStructure):
    """``struct tessera_limits_page``."""

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("sequence", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
        ("bank", LimitsBankBytes * 2),
    )


class CardUsageBytes(ctypes.LittleEndianStructure):
    """``struct tessera_card_usage``."""

    _fields_ = (
        ("reserved_bytes", ctypes.c_uint64),
        ("retired_device_time_ns", ctypes.c_uint64),
        ("retired_waiting_ns", ctypes.c_uint64),
        ("retired_throttled_ns", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 4),
    )


class LedgerBytes(ctypes.LittleEndianStructure):
    """``struct tessera_ledger``."""

    _fields_ = (
        ("bytes", ctypes.c_uint64),
        ("device_time_ns", ctypes.c_uint64),
        ("waiting_ns", ctypes.c_uint64),
        ("throttled_ns", ctypes.c_uint64),
    )


class ProcessSlotBytes(ctypes.LittleEndianStructure):
    """``struct tessera_process_slot``."""

    _fields_ = (
        ("generation", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("placed", ctypes.c_uint32),
        ("pid_start_ticks", ctypes.c_uint64),
        ("pending_bytes", ctypes.c_uint64),
        ("contexts", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 3),
        ("ledger", LedgerBytes * MOST_CARDS),
    )


class UsagePageBytes(ctypes.LittleEndianStructure):
    """``struct tessera_usage_page``."""

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("limits_generation", ctypes.c_uint64),
        ("writer", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 4),
        ("cards", CardUsageBytes * MOST_CARDS),
        ("slots", ProcessSlotBytes * MOST_PROCESSES),
    )


class SeatBytes(ctypes.LittleEndianStructure):
    """``struct tessera_seat``."""

    _fields_ = (
        ("active_ns", ctypes.c_uint64),
        ("wanted_ns", ctypes.c_uint64),
        ("held_ns", ctypes.c_uint64),
        ("until_ns", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 4),
    )


class TurnsCardBytes(ctypes.LittleEndianStructure):
    """``struct tessera_turns_card``."""

    _fields_ = (
        ("virtual_ns", ctypes.c_uint64),
        ("refilled_ns", ctypes.c_uint64),
        ("tokens_ns", ctypes.c_int64),
        ("seats_in_use", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 4),
        ("seats", SeatBytes * MOST_SEATS),
    )


class TurnsPageBytes(ctypes.LittleEndianStructure):
    """``struct tessera_turns_page``."""

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint64 * 6),
        ("cards", TurnsCardBytes * MOST_CARDS),
    )


class NeighbourBytes(ctypes.LittleEndianStructure):
    """``struct tessera_neighbour``."""

    _fields_ = (
        ("page", ctypes.c_char * NAME_BYTES),
        ("place", ctypes.c_uint32),
        ("compute_request_centi", ctypes.c_uint32),
        ("compute_limit_centi", ctypes.c_uint32),
        ("weight", ctypes.c_uint32),
        ("priority_class", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    )


class RosterBytes(ctypes.LittleEndianStructure):
    """``struct tessera_roster``."""

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
        ("neighbours", NeighbourBytes * MOST_NEIGHBOURS),
    )


STRUCTURES: Final[dict[str, type[ctypes.LittleEndianStructure]]] = {
    "tessera_card_limits": CardLimitsBytes,
    "tessera_limits_bank": LimitsBankBytes,
    "tessera_limits_page": LimitsPageBytes,
    "tessera_card_usage": CardUsageBytes,
    "tessera_ledger": LedgerBytes,
    "tessera_process_slot": ProcessSlotBytes,
    "tessera_usage_page": UsagePageBytes,
    "tessera_seat": SeatBytes,
    "tessera_turns_card": TurnsCardBytes,
    "tessera_turns_page": TurnsPageBytes,
    "tessera_neighbour": NeighbourBytes,
    "tessera_roster": RosterBytes,
}
"""Name in C → the same in Python."""
