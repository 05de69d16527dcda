"""Programs in Go that stand beside Kubernetes in the test cluster: helm and the name server.

They are built from their sources once, as Kubernetes is, in a module of their own: what changes here does not build that anew.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.cluster.parts import HERE, cache, checked, making, program, say

SOURCES: Final = HERE / "tools"
PACKAGES: Final = {"helm": "helm.sh/helm/v3/cmd/helm", "dns": "./dns"}


def tools() -> Path:
    """Return the folder of the programs, built if they are not there: a few minutes on two cores."""
    return built(SOURCES, PACKAGES)


def built(sources: Path, packages: Mapping[str, str]) -> Path:
    """Return the folder of programs made of a Go module's packages, built if they are not there.

    Args:
        sources: the module's folder.
        packages: program → package.
    """
    files = sorted(path for path in sources.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
    target = cache() / "tools" / f"{platform.machine()}-{digest}"
    with making(target) as draft:
        if draft is not None:
            began = time.monotonic()
            say(f"building {' and '.join(packages)}; this takes some minutes, once")
            draft.mkdir()
            for name, package in packages.items():
                go = [program("go"), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(draft / name), package]
                checked(["nice", "-n", "19", *go], env={"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}, cwd=sources)
            say(f"built them in {time.monotonic() - began:.0f} s")
    return target


def helm() -> str:
    """Return the path of helm."""
    return str(tools() / "helm")
