"""Packages are installed where one is missing; where none is, apt is not asked at all."""

import re

import pytest
from packages import PLAIN, missing

SEEN = """\
curl amd64 8.14.1-2 installed
redis-server amd64 5:8.0.2-3 installed
nftables amd64 1.1.3-1 half-configured
tzdata all 2025b-4 config-files
rsyslog auto
"""


def parsed(*names: str) -> list[re.Match[str]]:
    found = [match for match in map(PLAIN.fullmatch, names) if match]
    assert len(found) == len(names)
    return found


@pytest.mark.parametrize("name", ["curl", "curl:amd64", "redis-server=5:8.0.2-3", "curl:amd64=8.14.1-2"])
def test_what_is_there_is_not_asked_for(name: str) -> None:
    assert missing(parsed(name), SEEN) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nginx", "dpkg does not know it"),
        ("curl:arm64", "it is there for another architecture"),
        ("redis-server=5:7.0.15-1", "another version is wanted"),
        ("nftables", "its installation was cut off"),
        ("tzdata", "it was removed and left its configuration"),
        ("rsyslog", "it came along with another package and would go with it"),
    ],
)
def test_what_is_not_there_whole_is_left_to_apt(name: str, why: str) -> None:
    seen = SEEN + "rsyslog amd64 8.2504.0-1 installed\n"
    assert missing(parsed("curl", name), seen) == [name], why


@pytest.mark.parametrize("name", ["nginx/bookworm-backports", "redis-server=5:7*", "curl>=8", "./local.deb"])
def test_what_only_apt_understands_is_left_to_apt(name: str) -> None:
    assert not PLAIN.fullmatch(name)
