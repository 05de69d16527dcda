"""A real Kubernetes on this machine: etcd, API server, controllers, scheduler, containerd, kubelet, one bridge for the pods.

``python -m tests.cluster up`` leaves it running with its kubeconfig in ``.cluster/kubeconfig``; ``down`` removes every trace:
processes, mounts, network, cgroups, directories. One at a time on a machine.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, Final

from tessera_hub.installation import free_port
from tests.cluster import configuration, names
from tests.cluster.configuration import BRIDGE, GATEWAY, GATEWAY_MAC, NODE, SERVICES
from tests.cluster.gotools import tools
from tests.cluster.leftovers import (
    CGROUP,
    RUN,
    cgroup_pids,
    controllers,
    iptables_used,
    pids_with_argument,
    recorded_pids,
    remove_cgroups,
    remove_chains,
    start_ticks,
    unmount_below,
)
from tests.cluster.parts import ClusterError, check, checked, kubernetes, pause_image, program, runs_image, say

REPOSITORY: Final = Path(__file__).parent.parent.parent
HOME: Final = REPOSITORY / ".cluster"
RATES: Final = ("--kube-api-qps=1000", "--kube-api-burst=2000")
"""What controllers and scheduler may ask of the API server per second; by default they hold back to some tens."""
USERS: Final = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
}
TRACES: Final = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/var/log/pods",
    "/usr/libexec/kubernetes",
    "/opt/containerd",
    "/run/containerd",
    "/run/runc",
    "/run/netns",
)
"""Where the parts write whatever they are told; what was not there before goes with the cluster."""


def _wait(what: str, ready: Callable[[], bool], seconds: float, log: Path | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            tail = "" if log is None else "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            raise ClusterError(f"{what} did not come up in {seconds:.0f} s{tail}")
        time.sleep(0.2)


class Machine:
    """The cluster of this machine; all it knows lies in ``.cluster``, so that another process can take it down."""

    def __init__(self, home: Path = HOME) -> None:
        self.home = home
        self.logs = home / "logs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.home / "kubeconfig"

    def is_up(self) -> bool:
        """Whether it runs and answers."""
        return self.kubeconfig.exists() and self.answers()

    def answers(self) -> bool:
        """Whether the API server is ready."""
        with suppress(OSError, ValueError):
            return self.get("/readyz") == b"ok"
        return False

    def get(self, path: str) -> bytes:
        """Return what the API server answers the administrator."""
        known = json.loads((self.home / "cluster.json").read_text())
        context = ssl.create_default_context(cafile=str(self.home / "pki" / "ca.crt"))
        request = urllib.request.Request(
            f"https://{GATEWAY}:{known['port']}{path}", headers={"Authorization": f"Bearer {known['tokens']['admin']}"}
        )
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return bytes(answer.read())

    def up(self) -> None:
        """Bring it up; returns when the node is ready and the images are there.

        Raises:
            ClusterError: something is missing, another is up, or a part does not start.
        """
        check()
        if self.is_up():
            say(f"the cluster is up already: {self.kubeconfig}")
            return
        programs, images = kubernetes(), [pause_image(), runs_image()]
        tools()
        RUN.mkdir(exist_ok=True, mode=0o755)
        with (RUN / "lock").open("w") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except OSError as error:
                raise ClusterError("another test cluster is being brought up on this machine") from error
            owner = RUN / "owner"
            if owner.exists() and owner.read_text() != str(self.home) and Path(owner.read_text(), "cluster.json").exists():
                raise ClusterError(f"another test cluster is up on this machine: make cluster-down in {owner.read_text()}/..")
            self.down()
            RUN.mkdir(exist_ok=True, mode=0o755)
            owner.write_text(str(self.home))
            began = time.monotonic()
            try:
                self._up(programs, images)
            except BaseException:
                say(f"the logs are in {self.logs}")
                self.down(keep_logs=True)
                raise
        say(f"up in {time.monotonic() - began:.0f} s: KUBECONFIG={self.kubeconfig}")

    def _up(self, programs: Path, images: list[Path]) -> None:
        for folder in (self.logs, self.home / "pki", self.home / "etcd", self.home / "cni", self.home / "kubelet"):
            folder.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        tokens = {name: secrets.token_hex(16) for name in USERS}
        port, etcd, peer, kubelet = (free_port(set()) for _ in range(4))
        forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
        known = {
            "port": port,
            "etcd": etcd,
            "kubelet": kubelet,
            "tokens": tokens,
            "programs": str(programs),
            "ip_forward": forwarding,
            "traces": [path for path in TRACES if not Path(path).exists()],
        }
        self._write("cluster.json", known)
        self._network()
        self._identities(tokens, port)
        self._etcd(etcd, peer)
        self.start_apiserver()
        self._containerd(images)
        self.start_kubelet()
        say("waiting for the node")
        _wait("the node", self._node_ready, 60, self.logs / "kubelet.log")
        proxy = self._write("kube-proxy.json", configuration.kube_proxy(self.home, free_port(set()), free_port(set())))
        self._start_program("proxy", "kube-proxy", f"--config={proxy}")
        self._names()

    def _write(self, name: str, document: Any) -> Path:
        path = self.home / name
        path.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
        path.chmod(0o600)
        return path

    def known(self) -> dict[str, Any]:
        """Ports, tokens and programs of the running cluster."""
        found: dict[str, Any] = json.loads((self.home / "cluster.json").read_text())
        return found

    # --- parts ----------------------------------------------------------------------------------------------------

    def _network(self) -> None:
        checked([program("ip"), "link", "add", BRIDGE, "address", GATEWAY_MAC, "type", "bridge"])
        checked([program("ip"), "address", "add", f"{GATEWAY}/24", "dev", BRIDGE])
        checked([program("ip"), "link", "set", BRIDGE, "up"])
        self._write("cni/10-tessera.conflist", configuration.bridge())

    def _identities(self, tokens: Mapping[str, str], port: int) -> None:
        pki, openssl = self.home / "pki", program("openssl")
        new_key = [openssl, "req", "-nodes", "-newkey", "rsa:2048", "-batch"]
        checked(
            [*new_key, "-x509", "-days", "30", "-subj", "/CN=tessera-test", "-keyout", f"{pki}/ca.key", "-out", f"{pki}/ca.crt"]
        )
        names = f"subjectAltName=IP:{GATEWAY},IP:127.0.0.1,IP:10.244.78.1,DNS:kubernetes.default.svc,DNS:kubernetes,DNS:localhost"
        for name, subject, extension in (
            ("apiserver", "/CN=kube-apiserver", names),
            ("client", "/O=system:masters/CN=kube-apiserver-kubelet-client", "extendedKeyUsage=clientAuth"),
            ("kubelet", f"/CN={NODE}", f"subjectAltName=IP:{GATEWAY}"),
        ):
            checked([*new_key, "-subj", subject, "-keyout", f"{pki}/{name}.key", "-out", f"{pki}/{name}.csr"])
            (pki / f"{name}.ext").write_text(extension + "\n")
            signing = ["-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key", "-CAcreateserial", "-days", "30"]
            ends = ["-extfile", f"{pki}/{name}.ext", "-in", f"{pki}/{name}.csr", "-out", f"{pki}/{name}.crt"]
            checked([openssl, "x509", "-req", *signing, *ends])
        checked([openssl, "genrsa", "-out", f"{pki}/accounts.key", "2048"])
        lines = [f'{token},{USERS[name][0]},{name},"{USERS[name][1]}"' for name, token in tokens.items()]
        self._write("pki/tokens.csv", "\n".join(lines) + "\n")
        for name, token in tokens.items():
            target = "kubeconfig" if name == "admin" else f"pki/{name}.kubeconfig"
            self._write(target, self.kubeconfig_for(token, port))

    def kubeconfig_for(self, token: str, port: int | None = None) -> dict[str, Any]:
        """Return a kubeconfig (JSON is YAML) for a bearer token."""
        certificate = base64.b64encode((self.home / "pki" / "ca.crt").read_bytes()).decode()
        server = {"server": f"https://{GATEWAY}:{port or self.known()['port']}", "certificate-authority-data": certificate}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tessera-test", "cluster": server}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "tessera-test", "context": {"cluster": "tessera-test", "user": "me"}}],
            "current-context": "tessera-test",
        }

    def _start(self, name: str, argv: list[str], env: Mapping[str, str] | None = None) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **(env or {})}
            )
        (RUN / f"{name}.pid").write_text(f"{process.pid} {start_ticks(process.pid)}")

    def _start_program(self, name: str, command: str, *arguments: str) -> None:
        self._start(name, [f"{self.known()['programs']}/{command}", *arguments])

    def _etcd(self, port: int, peer: int) -> None:
        url, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
        self._start(
            "etcd",
            [
                program("etcd"),
                f"--data-dir={self.home}/etcd",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                "--unsafe-no-fsync",
            ],
        )

    def start_apiserver(self) -> None:
        """Start API server, controllers and scheduler and wait until it answers."""
        pki, known = self.home / "pki", self.known()
        self._start_program(
            "apiserver",
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{known['etcd']}",
            f"--secure-port={known['port']}",
            f"--bind-address={GATEWAY}",
            f"--advertise-address={GATEWAY}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--cert-dir={pki}",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/client.crt",
            f"--kubelet-client-key={pki}/client.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--token-auth-file={pki}/tokens.csv",
            f"--service-account-key-file={pki}/accounts.key",
            f"--service-account-signing-key-file={pki}/accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--max-requests-inflight=1000",
        )
        _wait("the API server", self.answers, 60, self.logs / "apiserver.log")
        self.start_controllers()

    def start_controllers(self, *more: str) -> None:
        """Start controllers and scheduler; *more* are further arguments of the controllers."""
        pki = self.home / "pki"
        self._start_program(
            "controllers",
            "kube-controller-manager",
            f"--kubeconfig={pki}/controllers.kubeconfig",
            f"--service-account-private-key-file={pki}/accounts.key",
            f"--root-ca-file={pki}/ca.crt",
            "--use-service-account-credentials",
            "--secure-port=0",
            "--leader-elect=false",
            *RATES,
            *more,
        )
        scheduler = ["--secure-port=0", "--leader-elect=false", *RATES]
        self._start_program("scheduler", "kube-scheduler", f"--kubeconfig={pki}/scheduler.kubeconfig", *scheduler)

    def restart_controllers(self, *more: str) -> None:
        """Start controllers and scheduler anew, with *more* as for :meth:`start_controllers`."""
        for part in ("scheduler", "controllers"):
            self.stop_part(part)
        self.start_controllers(*more)

    def _containerd(self, images: list[Path]) -> None:
        self._write("containerd.toml", configuration.containerd(self.home))
        self._start("containerd", [program("containerd"), "--config", str(self.home / "containerd.toml")])
        ctr = [program("ctr"), "--address", f"{RUN}/containerd.sock", "--namespace", "k8s.io"]

        def answers() -> bool:
            return subprocess.run([*ctr, "images", "ls"], capture_output=True, check=False).returncode == 0

        _wait("containerd", answers, 20, self.logs / "containerd.log")
        for image in images:
            checked([*ctr, "images", "import", str(image)])

    def start_kubelet(self) -> None:
        """Start the kubelet."""
        pki = self.home / "pki"
        for controller in controllers():
            (controller / CGROUP).mkdir(exist_ok=True)
        (self.home / "resolv.conf").write_text("")
        document = configuration.kubelet(self.home, self.known()["kubelet"])
        self._start_program(
            "kubelet",
            "kubelet",
            f"--config={self._write('kubelet.json', document)}",
            f"--kubeconfig={pki}/kubelet.kubeconfig",
            f"--root-dir={self.home}/kubelet",
            f"--hostname-override={NODE}",
            f"--node-ip={GATEWAY}",
        )

    def _names(self) -> None:
        corefile = self._write("Corefile", names.corefile(GATEWAY, self.kubeconfig))
        self._start("dns", [str(tools() / "dns"), "-conf", str(corefile)])
        service = f"kubernetes.default.svc.{names.DOMAIN}"
        _wait("the name server", lambda: names.lookup(GATEWAY, service) is not None, 30, self.logs / "dns.log")

    def _node_ready(self) -> bool:
        with suppress(OSError, ValueError):
            node = json.loads(self.get(f"/api/v1/nodes/{NODE}"))
            conditions = {c["type"]: c["status"] for c in node["status"]["conditions"]}
            taints = node["spec"].get("taints", [])
            return conditions.get("Ready") == "True" and not taints
        return False

    # --- the end --------------------------------------------------------------------------------------------------

    def stop_part(self, name: str, number: int = signal.SIGTERM, seconds: float = 15) -> None:
        """End one part by its pid."""
        record = RUN / f"{name}.pid"
        if not record.exists():
            return
        pid, ticks = (int(part) for part in record.read_text().split())
        deadline = time.monotonic() + seconds
        while start_ticks(pid) == ticks:
            with suppress(ProcessLookupError):
                os.kill(pid, number if time.monotonic() < deadline else signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.1)
        record.unlink()

    def pid_of(self, name: str) -> int:
        """Return the process of a part."""
        return int((RUN / f"{name}.pid").read_text().split()[0])

    def down(self, *, keep_logs: bool = False) -> None:
        """Remove every trace; what is not there is no error."""
        for name in ("kubelet", "dns", "proxy", "scheduler", "controllers", "apiserver", "etcd"):
            self.stop_part(name)
        self._end_containers()
        self.stop_part("containerd")
        self._clean_network()
        unmount_below(str(self.home), str(RUN))
        remove_cgroups()
        with suppress(OSError, ValueError):
            for path in self.known()["traces"]:
                shutil.rmtree(path, ignore_errors=True)
        if self.home.exists():
            for path in self.home.iterdir():
                if not (keep_logs and path == self.logs):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not keep_logs:
                self.home.rmdir()
        shutil.rmtree(RUN, ignore_errors=True)

    def _end_containers(self) -> None:
        """Kill what runs in the cluster's containers: everything in its cgroups, and the shims of its containerd."""
        for _attempt in range(50):
            pids = cgroup_pids() | pids_with_argument(f"{RUN}/containerd.sock".encode()) - recorded_pids()
            if not pids:
                return
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def _clean_network(self) -> None:
        with suppress(OSError, ValueError):
            known = self.known()
            if Path(known["programs"], "kube-proxy").exists() and iptables_used():
                subprocess.run([f"{known['programs']}/kube-proxy", "--cleanup"], capture_output=True, check=False)
            Path("/proc/sys/net/ipv4/ip_forward").write_text(known["ip_forward"])
        remove_chains()
        if Path("/sys/class/net", BRIDGE).exists():
            subprocess.run([program("ip"), "link", "delete", BRIDGE], capture_output=True, check=False)
        for namespace in Path("/run/netns").glob("cni-*"):
            subprocess.run([program("ip"), "netns", "delete", namespace.name], capture_output=True, check=False)
