"""What both stories of the scenario have in common."""

from __future__ import annotations

import pytest
from installation import Installation

GROUPS = {
    "loadbalancer": ["lb1"],
    "clawdbot": ["app1", "app2"],
    "redis": ["redis1"],
    "monitoring": ["monitor1"],
    "internet": ["outside"],
}


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Installation:
    """The installation of the scenario."""
    return Installation(request.config.getoption("--ansible-inventory"), GROUPS)
