"""Fixtures of the widgets' tests: the SDK's real service, and alice in tenant ``physics``."""

from tests.hub.client.conftest import client, hub, service, token

__all__ = ["client", "hub", "service", "token"]
