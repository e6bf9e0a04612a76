"""What one host asks for does not grow with the number of the others; the work for all of them is in proportion."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import site_inventory as site
import yaml
from rendering import ROOT, evaluate, trusted

# What the run has looked up once for all hosts.
NEIGHBOURS = yaml.safe_load((ROOT / "playbooks/tasks/neighbours.yml").read_text("utf-8"))[0]["ansible.builtin.set_fact"]
HARDEN = next(
    play["vars"]
    for play in yaml.safe_load((ROOT / "playbooks/harden.yml").read_text("utf-8"))
    if play["name"] == "Harden"
)


class HostVars(Mapping[str, Mapping[str, Any]]):
    """Ansible's ``hostvars`` of so many nodes and four hosts more; counts the reads, which are what costs time."""

    def __init__(self, nodes: int) -> None:
        self.groups = {
            "loadbalancer": ["lb1", "lb2"],
            "clawdbot": [f"app{n}" for n in range(nodes)],
            "redis": ["redis1"],
            "monitoring": ["mon1"],
        }
        self.names = site.site_hosts(self.groups)
        self.asked = 0

    def __getitem__(self, host: str) -> Mapping[str, Any]:
        self.asked += 1
        number = self.names.index(host)
        return {"ansible_host": f"10.0.{number // 250}.{number % 250 + 1}", "clawdbot_feishu_app_id": "cli_1"}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def neighbours(hostvars: HostVars, host: str = "app1") -> dict[str, Any]:
    """The variables of a play on ``host`` after `NEIGHBOURS`."""
    given = {"groups": hostvars.groups | {"all": hostvars.names}, "hostvars": hostvars, "inventory_hostname": host}
    return given | {name: evaluate("site", name, **given) for name in NEIGHBOURS}


@pytest.mark.parametrize("nodes", [6, 96])
def test_each_host_is_looked_at_a_few_times_a_run(nodes: int) -> None:
    hostvars = HostVars(nodes)
    neighbours(hostvars)
    assert len(hostvars) <= hostvars.asked <= 4 * len(hostvars)


@pytest.mark.parametrize("host", ["app1", "lb1"])
def test_hardening_a_host_looks_at_no_more_others_where_there_are_more(host: str) -> None:
    login = {"port": 22, "listens": 22, "client": "192.0.2.1", "server": "10.0.0.1", "addresses": {}}
    asked, sources = [], []
    for nodes in (6, 96):
        hostvars = HostVars(nodes)
        variables = trusted(HARDEN) | neighbours(hostvars, host) | {"ssh_login": login}
        hostvars.asked = 0
        made = {name: evaluate("site", name, **variables) for name in HARDEN}
        assert set(made["base_hosts"]) == set(hostvars)
        asked.append(hostvars.asked)
        sources.append([len(service["sources"]) for service in made["firewall_services"]])
    assert asked[0] == asked[1]
    assert sources[0] == sources[1]


@pytest.mark.parametrize(
    ("inventory", "said"),
    [(["app1", "app2", "spare 1", "app10"], ["neighbour spare 1"]), (["app1", "app2", "app10"], [])],
)
def test_of_all_its_neighbours_a_host_names_those_that_are_none_any_more(
    inventory: list[str], said: list[str], tmp_path: Path
) -> None:
    known = "".join(f"10.0.0.{n} {name}\n" for n, name in enumerate(("app1", "spare 1", "app10")))
    (tmp_path / "hosts").write_text(
        f"127.0.0.1 spare\n# BEGIN Ansible managed: role base\n{known}# END Ansible managed: role base\n", "utf-8"
    )
    plays = yaml.safe_load((ROOT / "playbooks/leave.yml").read_text("utf-8"))
    files = yaml.safe_load((ROOT / "playbooks/vars/leave.yml").read_text("utf-8"))
    look = plays[0]["tasks"][0]["ansible.builtin.raw"]
    groups = {"clawdbot": ["app1", "app2", "app10"], "redis": [], "loadbalancer": [], "monitoring": []}
    variables = trusted(files | {"leave_parts": [], "look": look}) | {
        "site_groups": groups,
        "groups": {"all": inventory},
    }
    script = str(evaluate("site", "look", **variables)).replace("/etc/hosts", str(tmp_path / "hosts"))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == said
