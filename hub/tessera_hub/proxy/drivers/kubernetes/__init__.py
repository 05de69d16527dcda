"""The Kubernetes driver: runs are pods of plain Jobs, or of Volcano's where Volcano is.

Start reading at :mod:`.objects` (what a run is in the cluster) and :mod:`.standing` (how it is read back).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tessera_hub.proxy.drivers.kubernetes.options import KubernetesOptions
from tessera_hub.proxy.errors import ProxyError

if TYPE_CHECKING:
    from tessera_hub.proxy.drivers.kubernetes.driver import KubernetesDriver

__all__ = ["KubernetesOptions", "kubernetes_driver"]


def kubernetes_driver(options: KubernetesOptions) -> KubernetesDriver:
    """Return the driver of the cluster of a kubeconfig, or of the one that this pod runs in.

    Raises:
        ProxyError: ``proxy.bad_option``.
    """
    # The manifest of rights is printed where nothing of Kubernetes is installed.
    from tessera_hub.proxy.drivers.kubernetes.driver import KubernetesDriver
    from volcano_client.errors import ClusterApiError
    from volcano_client.transport import Transport

    try:
        if options.kubeconfig is None:
            return KubernetesDriver(options, Transport.in_cluster())
        return KubernetesDriver(options, Transport.from_kubeconfig(options.kubeconfig, options.context))
    except ClusterApiError as error:
        raise ProxyError("proxy.bad_option", f"{error.message}; give --kubeconfig FILE") from error
