"""The runtime is new enough and can do what the bot needs of it: read a configuration module."""

import json

import pytest
from testinfra.host import Host


@pytest.mark.every_host
def test_version(host: Host) -> None:
    assert int(host.check_output("node --print process.versions.node").split(".")[0]) >= 14


def test_module_is_read(host: Host) -> None:
    host.check_output("""echo "module.exports = { app_id: 'cli_' + 'a1' }" > /tmp/feishu.js""")
    said = host.check_output("""node --eval "console.log(JSON.stringify(require('/tmp/feishu.js')))" """)
    assert json.loads(said) == {"app_id": "cli_a1"}
