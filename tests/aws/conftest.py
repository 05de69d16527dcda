"""Fixtures of the tests of the AWS Batch driver; its index.

aws_account  session   moto's server with a queue whose jobs really run (tests/aws/account.py)
site         function  a fresh Proxy's share of it, as in the conformance suite
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.aws.account import Account
from tests.aws.site import AwsBatchSite
from tests.proxy.conftest import make_lease

__all__ = ["make_lease"]
PURE = {"test_pure.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Jobs get namespaces of their own, which needs root."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.path.name not in PURE:
            item.add_marker(pytest.mark.root)


@pytest_asyncio.fixture
async def site(aws_account: Account) -> AsyncIterator[AwsBatchSite]:
    found = AwsBatchSite(aws_account)
    yield found
    for what, asked in (
        ("hold", {"reason": None}),
        ("image", {"missing": False}),
        ("fault", {"operation": "*", "kind": "throttle", "times": 0}),
    ):
        aws_account.ask(what, **asked)
    await found.finish()
