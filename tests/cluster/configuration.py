"""Configuration of the cluster's parts: what ``machine.py`` writes before it starts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tests.cluster import names
from tests.cluster.leftovers import CGROUP, RUN
from tests.cluster.parts import CNI, PAUSE_IMAGE

NODE: Final = "tessera-node"
BRIDGE: Final = "tessera0"
GATEWAY: Final = "10.244.77.1"
GATEWAY_MAC: Final = "0a:58:0a:f4:4d:01"
"""Else a bridge has the lowest of its ports': when a pod ends, others may lose their way out for a minute."""
PODS: Final = "10.244.77.0/24"
SERVICES: Final = "10.244.78.0/24"


def bridge() -> dict[str, Any]:
    """Return the network of the pods: one bridge."""
    ipam = {"type": "host-local", "dataDir": str(RUN / "ipam"), "ranges": [[{"subnet": PODS, "gateway": GATEWAY}]]}
    kind = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True}
    plugins = [{**kind, "ipam": {**ipam, "routes": [{"dst": "0.0.0.0/0"}]}}]
    return {"cniVersion": "1.0.0", "name": "tessera", "plugins": plugins}


def containerd(home: Path) -> str:
    """Return that of containerd."""
    return f"""version = 2
root = "{home}/containerd"
state = "{RUN}/containerd"
disabled_plugins = [{", ".join(f'"io.containerd.snapshotter.v1.{name}"' for name in ("btrfs", "zfs", "aufs", "devmapper"))}]
[grpc]
  address = "{RUN}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{home}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{home}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def kubelet(home: Path, port: int) -> dict[str, Any]:
    """Return that of the kubelet."""
    pki = home / "pki"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": GATEWAY,
        "port": port,
        "healthzPort": 0,
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "containerRuntimeEndpoint": f"unix://{RUN}/containerd.sock",
        "clusterDNS": [GATEWAY],
        "clusterDomain": names.DOMAIN,
        "resolvConf": str(home / "resolv.conf"),
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 100,
        "registerWithTaints": [],
        "volumePluginDir": str(home / "volumeplugins"),
        "podLogsDir": str(home / "podlogs"),
    }


def kube_proxy(home: Path, health: int, metrics: int) -> dict[str, Any]:
    """Return that of kube-proxy; its two ports are on the loopback address."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": f"{home}/pki/proxy.kubeconfig"},
        "clusterCIDR": PODS,
        "hostnameOverride": NODE,
        "healthzBindAddress": f"127.0.0.1:{health}",
        "metricsBindAddress": f"127.0.0.1:{metrics}",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
