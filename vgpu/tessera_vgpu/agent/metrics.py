"""The agent's metrics for Prometheus, and the same as a page of plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from tessera_vgpu.agent.meters import Times
from tessera_vgpu.agent.view import Bypass, CardUse, ContainerUse, View

_BYTES_PER_MIB: Final = 1 << 20
_NS: Final = 1e9
_OF_CONTAINER: Final = ("namespace", "pod", "container", "card")
_CONTAINER_COUNTERS: Final[tuple[tuple[str, str, Callable[[Times], int]], ...]] = (
    ("device_seconds", "Time of the card that the container's work took, as its processes say.", lambda t: t.device_ns),
    ("waiting_seconds", "Time that its work waited for that of others.", lambda t: t.waiting_ns),
    ("throttled_seconds", "Time that its work waited because of its own limit.", lambda t: t.throttled_ns),
)
_CONTAINER_GAUGES: Final[tuple[tuple[str, str, Callable[[ContainerUse], float]], ...]] = (
    ("share_cards", "What the container was given of the card, 1 is all of it.", lambda u: u.centi_cards / 100),
    ("limit_cards", "What it may use of the card while others are idle.", lambda u: u.limit_centi_cards / 100),
    ("memory_limit_bytes", "Memory of the card that it may have.", lambda u: u.memory_mib * _BYTES_PER_MIB),
    ("memory_reserved_bytes", "Memory that its processes say they have.", lambda u: u.reserved_bytes),
    ("memory_driver_bytes", "Memory that the driver says they have, contexts included.", lambda u: u.driver_bytes),
    ("processes", "Places in its page that are taken.", lambda u: u.processes),
)
_CARD_GAUGES: Final[tuple[tuple[str, str, Callable[[CardUse], float]], ...]] = (
    ("healthy", "1 if the card answers.", lambda c: c.healthy),
    ("memory_bytes", "Memory that can be given to slices.", lambda c: c.memory_mib * _BYTES_PER_MIB),
    ("given_cards", "Part of the card that is given, 1 is all of it.", lambda c: c.given_centi_cards / 100),
    ("given_memory_bytes", "Memory that is given.", lambda c: c.given_memory_mib * _BYTES_PER_MIB),
    ("slices_bytes", "Memory that the driver says containers with a slice have, contexts included.", lambda c: c.slices_bytes),
    ("other_bytes", "Memory that the driver says everybody else has.", lambda c: c.other_bytes),
)


class Metrics(Collector):
    """Turns what the agent saw last into metrics, at each scrape."""

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view

    def registry(self) -> CollectorRegistry:
        """Return a registry with these metrics and no others."""
        made = CollectorRegistry()
        made.register(self)
        return made

    def describe(self) -> Iterable[Metric]:
        """Return nothing: a registry that asks would have to look first."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        view = self._view()
        for name, text, of_card in _CARD_GAUGES:
            gauge = GaugeMetricFamily(f"tessera_vgpu_card_{name}", text, labels=("card", "model"))
            for card in view.cards:
                gauge.add_metric((card.uuid, card.model), float(of_card(card)))
            yield gauge
        for name, text, of_times in _CONTAINER_COUNTERS:
            counter = CounterMetricFamily(f"tessera_vgpu_container_{name}", text, labels=_OF_CONTAINER)
            for use in view.containers:
                counter.add_metric(_labels(use), of_times(use.times) / _NS)
            yield counter
        for name, text, of_container in _CONTAINER_GAUGES:
            gauge = GaugeMetricFamily(f"tessera_vgpu_container_{name}", text, labels=_OF_CONTAINER)
            for use in view.containers:
                gauge.add_metric(_labels(use), float(of_container(use)))
            yield gauge
        remarks = GaugeMetricFamily(
            "tessera_vgpu_container_remark", "1 for what is wrong with the container now.", labels=(*_OF_CONTAINER, "remark")
        )
        for use in view.containers:
            for remark in use.remarks:
                remarks.add_metric((*_labels(use), remark), 1)
        yield remarks
        bypasses = CounterMetricFamily(
            "tessera_vgpu_bypasses", "Findings since the agent started that a container goes around its limits.", labels=("kind",)
        )
        for kind in Bypass:
            bypasses.add_metric((kind.value,), view.counts.get(kind, 0))
        yield bypasses
        yield GaugeMetricFamily(
            "tessera_vgpu_last_look_timestamp_seconds", "When the agent last looked at the cards.", value=view.unix_s
        )


def page(view: View) -> str:
    """Return the node as lines of text, for people; names in it are those of the metrics."""
    lines = [f"# cards, looked at {view.unix_s:.3f}"]
    for card in view.cards:
        values = " ".join(f"{name}={float(of(card)):.15g}" for name, _text, of in _CARD_GAUGES)
        lines.append(f"{card.uuid} {card.model} {values}")
    lines.append("# containers")
    for use in view.containers:
        values = " ".join(f"{name}={float(of(use)):.15g}" for name, _text, of in _CONTAINER_GAUGES)
        times = " ".join(f"{name}={of(use.times) / _NS:.3f}" for name, _text, of in _CONTAINER_COUNTERS)
        lines.append(
            f"{use.owner.namespace}/{use.owner.pod}/{use.owner.container} {use.card} {values} {times} {','.join(use.remarks)}"
        )
    lines.append("# bypasses")
    lines += [f"{kind.value} {view.counts.get(kind, 0)}" for kind in Bypass]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _labels(use: ContainerUse) -> tuple[str, str, str, str]:
    return use.owner.namespace, use.owner.pod, use.owner.container, use.card
