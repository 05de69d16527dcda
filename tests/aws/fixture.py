"""The account of a test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.aws.account import Account, credentials


@pytest.fixture(scope="session")
def aws_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """An AWS account on this machine (tests/aws/account.py); its jobs need root to get namespaces of their own."""
    with credentials():
        found = Account(tmp_path_factory.mktemp("aws"))
        found.start()
        yield found
        found.stop()
