"""Kubernetes quantities (``1500m``, ``2Gi``, ``1k``) as integers. Source: apimachinery ``pkg/api/resource/quantity.go``."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

_SUFFIXES: Final = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "k": Fraction(1000),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(1 << 10),
    "Mi": Fraction(1 << 20),
    "Gi": Fraction(1 << 30),
    "Ti": Fraction(1 << 40),
    "Pi": Fraction(1 << 50),
    "Ei": Fraction(1 << 60),
}


def quantity(value: Any) -> Fraction:
    """Return a quantity exactly; what cannot be read is 0."""
    text = str(value).strip()
    digits = text.rstrip("numkKMGTPEi")
    try:
        if ("e" in digits.lower() or text != digits) and "e" in text.lower() and text[-1].isdigit():
            return Fraction(text)
        return Fraction(digits or "0") * _SUFFIXES[text[len(digits) :]]
    except (ValueError, KeyError, ZeroDivisionError):
        return Fraction(0)


def millicores(value: Any) -> int:
    """Return processors in thousandths, rounded up as the scheduler does."""
    return -int(-quantity(value) * 1000 // 1)


def mebibytes(value: Any, *, up: bool = False) -> int:
    """Return bytes in MiB, rounded down, or up for what is taken."""
    found = quantity(value) / (1 << 20)
    return -int(-found // 1) if up else int(found // 1)


def number(value: Any) -> int:
    """Return a count."""
    return int(quantity(value) // 1)
