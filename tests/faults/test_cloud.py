"""AWS Batch refuses calls, as it does for an account that makes too many, while runs wait, work and end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.aws.account import Account
from tests.aws.test_journey import AwsProxy
from tests.faults.outcomes import tell, trial_of
from tests.faults.throttling import ThrottlingRelay
from tests.hub_double import HubDouble
from tests.proxy.conftest import hub, service
from tests.service import ServiceProcess

__all__ = ["hub", "service"]
pytestmark = [pytest.mark.faults, pytest.mark.root, pytest.mark.timeout(280)]
SECONDS = 10.0
"""How long calls are refused."""
CASES = {
    "every submit is refused": (("submitjob",), 1.0, False),
    "two thirds of all calls are refused": ((), 0.67, False),
    "every call is refused": ((), 1.0, False),
    "every call is refused, Proxy killed": ((), 1.0, True),
}


@pytest.fixture(scope="module")
def relay(aws_account: Account) -> Iterator[ThrottlingRelay]:
    found = ThrottlingRelay(aws_account.port)
    yield found
    found.close()


@pytest.fixture(scope="module")
def proxy(
    aws_account: Account,
    relay: ThrottlingRelay,
    hub: HubDouble,
    service: ServiceProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AwsProxy]:
    found = AwsProxy(aws_account, service, tmp_path_factory.mktemp("proxy"), service.api(hub.add_user("ada", "red")))
    found.settings.write_text(found.settings.read_text().replace(aws_account.url, relay.url))
    found.start()
    found.wait_for_session()
    yield found
    if found.process is not None:
        found.stop()


@pytest.mark.parametrize("fault", CASES)
def test_calls_are_refused_for_a_while(
    proxy: AwsProxy, relay: ThrottlingRelay, request: pytest.FixtureRequest, fault: str
) -> None:
    operations, share, killed = CASES[fault]
    before = sum(relay.refused.values())
    with trial_of(proxy, "127.0.0.1") as trial:
        trial.wait_until_begun(trial.submit(SECONDS + 6), trial.submit(4))
        for _ in range(2):
            trial.submit(1)
        relay.operations, relay.share = operations, share
        try:
            for _ in range(2):
                trial.submit(1)
            if killed:
                time.sleep(SECONDS / 3)
                trial.kill_proxy()
            trial.hold(SECONDS)
        finally:
            relay.share = 0.0
        ends = trial.finish()
        assert sum(relay.refused.values()) > before, "the fault happened"
        tell(request, trial, fault, "aws_batch", ends)
    assert ends == Counter({"SUCCEEDED": 6})
