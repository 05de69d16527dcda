"""The test cluster's parts: which must be installed, and how those are built that no package has.

Everything that takes minutes is kept outside the clone, below ``$XDG_CACHE_HOME/tessera``, keyed by what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
KUBERNETES: Final = "v1.34.4"
COMMANDS: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
PAUSE_IMAGE: Final = "tessera.test/pause:1"
RUNS_IMAGE: Final = "tessera.test/runs:1"
"""Debian's Python with what a notebook and an MPI program need; user 1000."""
DEBIAN: Final = "bookworm"
DEBIAN_PACKAGES: Final = ("python3", "python3-venv", "openmpi-bin")
PYTHON_PACKAGES: Final = ("nbclient>=0.10", "nbformat>=5.9", "ipykernel>=6.29", "mpi4py>=4")
PROGRAMS: Final = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "iptables": "iptables",
    "ip": "iproute2",
    "openssl": "openssl",
}
"""Program → Debian package."""
CNI: Final = Path("/usr/lib/cni")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ClusterError(Exception):
    """The test cluster cannot be brought up here; the message says what to do."""


def cache() -> Path:
    """Return the folder of what is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tessera"


def program(name: str) -> str:
    """Return the path of an installed program.

    Raises:
        ClusterError: it is missing; the message names its Debian package.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if found is None:
        raise ClusterError(f"{name} is missing: apt-get install {PROGRAMS.get(name, name)}")
    return found


def check() -> None:
    """See that everything is there which the cluster needs.

    Raises:
        ClusterError: not root, or something is missing.
    """
    if os.geteuid() != 0:
        raise ClusterError("the test cluster needs root (containers, network); run the other groups with ONLY=")
    missing = sorted({package for name, package in PROGRAMS.items() if shutil.which(name, path=_PATH) is None})
    if not (CNI / "bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        raise ClusterError(f"the test cluster needs Debian packages: apt-get install {' '.join(missing)}")
    if shutil.which("go") is None:
        raise ClusterError("the test cluster builds Kubernetes: Go 1.24 or newer is needed and was not found")


def say(message: str) -> None:
    """Tell whoever waits at a terminal."""
    sys.stderr.write(f"[cluster] {message}\n")
    sys.stderr.flush()


@contextmanager
def making(target: Path) -> Iterator[Path | None]:
    """Give a draft path that becomes *target* when the block ends well; None when *target* is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if target.exists():
            yield None
            return
        draft = target.with_name(f".{target.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.unlink(missing_ok=True)
        yield draft
        draft.rename(target)


def checked(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        ClusterError: it failed; the message has its last words.
    """
    done = subprocess.run(
        argv, capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-3000:]
        raise ClusterError(f"{' '.join(argv[:4])} … ended with {done.returncode}:\n{words}")
    return done.stdout


def kubernetes() -> Path:
    """Return the folder of Kubernetes' programs, built if they are not there: some minutes on two cores."""
    sources = hashlib.sha256((HERE / "go.mod").read_bytes() + (HERE / "go.sum").read_bytes()).hexdigest()[:12]
    target = cache() / "kubernetes" / f"{KUBERNETES}-{platform.machine()}-{sources}"
    with making(target) as draft:
        if draft is not None:
            began = time.monotonic()
            say(f"building Kubernetes {KUBERNETES}; this takes some minutes, once")
            major, minor = KUBERNETES.removeprefix("v").split(".")[:2]
            version = "k8s.io/component-base/version"
            flags = f"-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
            go = [program("go"), "build", "-trimpath", "-ldflags", flags, "-o", f"{draft}/"]
            draft.mkdir()
            checked(
                ["nice", "-n", "19", *go, *(f"k8s.io/kubernetes/cmd/{name}" for name in COMMANDS)],
                env={"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
                cwd=HERE,
            )
            say(f"built Kubernetes in {time.monotonic() - began:.0f} s")
    return target


_PAUSE: Final = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGINT, syscall.SIGTERM)
	<-ends
}
"""


def pause_image() -> Path:
    """Return the archive of the image that holds a pod's network: one static program that waits."""
    target = cache() / "images" / f"pause-{platform.machine()}-{_digest(_PAUSE)}.tar"
    with making(target) as draft:
        if draft is not None:
            folder = draft.with_suffix(".d")
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "root").mkdir(parents=True)
            (folder / "pause.go").write_text(_PAUSE)
            build = [program("go"), "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{folder}/root/pause", f"{folder}/pause.go"]
            checked(build, env={"CGO_ENABLED": "0"}, cwd=folder)
            _archive(draft, PAUSE_IMAGE, folder / "root", {"Entrypoint": ["/pause"], "User": "65535"})
            shutil.rmtree(folder)
    return target


def runs_image() -> Path:
    """Return the archive of the image in which runs execute: Debian with what runs need; some minutes, once."""
    target = cache() / "images" / f"runs-{platform.machine()}-{_digest(DEBIAN, *DEBIAN_PACKAGES, *PYTHON_PACKAGES)}.tar"
    with making(target) as draft:
        if draft is not None:
            began = time.monotonic()
            say("building the image for runs; this takes a minute or two, once")
            folder = draft.with_suffix(".d")
            shutil.rmtree(folder, ignore_errors=True)
            root = folder / "root"
            include = f"--include={','.join(DEBIAN_PACKAGES)}"
            checked(["nice", "-n", "10", program("debootstrap"), "--variant=minbase", include, DEBIAN, str(root)])
            wheels = root / "wheels"
            # The wheels are fetched outside, so that nothing of this machine's set-up stays in the image.
            only = ["--python-version", "3.11", "--only-binary=:all:", "--dest", str(wheels)]
            checked([sys.executable, "-m", "pip", "download", "--quiet", *only, *PYTHON_PACKAGES])
            inside = ["chroot", str(root)]
            clean = {"PATH": _PATH, "HOME": "/root"}
            checked([*inside, "python3", "-m", "venv", "/opt/python"], env=clean)
            install = ["/opt/python/bin/pip", "install", "--quiet", "--no-cache-dir", "--no-index", "--find-links", "/wheels"]
            checked([*inside, *install, *PYTHON_PACKAGES], env=clean)
            checked([*inside, "useradd", "--uid", "1000", "--create-home", "person"], env=clean)
            shutil.rmtree(wheels)
            for useless in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
                shutil.rmtree(root / useless, ignore_errors=True)
            config = {"Env": [f"PATH=/opt/python/bin:{_PATH}", "LANG=C.UTF-8"], "User": "1000", "WorkingDir": "/home/person"}
            _archive(draft, RUNS_IMAGE, root, config)
            shutil.rmtree(folder)
            say(f"built the image in {time.monotonic() - began:.0f} s")
    return target


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _archive(target: Path, name: str, root: Path, config: Mapping[str, object]) -> None:
    """Write a directory as an image archive of one layer (the format of ``docker save``, which containerd imports)."""
    layer = target.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        tar.add(root, arcname=".", filter=_no_devices)
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    document = json.dumps({"architecture": machine, "os": "linux", "config": dict(config), "rootfs": rootfs}).encode()
    config_name = f"{hashlib.sha256(document).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]).encode()
    with tarfile.open(target, "w") as tar:
        tar.add(layer, arcname=f"{digest}/layer.tar")
        for file_name, data in ((config_name, document), ("manifest.json", manifest)):
            path = target.with_suffix(".json")
            path.write_bytes(data)
            tar.add(path, arcname=file_name)
            path.unlink()
    layer.unlink()


def _no_devices(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.isdev() or member.name.startswith(("./proc/", "./sys/")) else member
