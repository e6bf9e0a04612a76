"""A virtual environment can be made and used."""

import pytest
from testinfra.host import Host


@pytest.mark.every_host
def test_virtual_environment_works(host: Host) -> None:
    host.check_output("rm -rf venv && python3 -m venv venv")
    version = host.check_output("venv/bin/python -c 'import sys; print(sys.version_info >= (3, 8))'")
    assert version == "True"
