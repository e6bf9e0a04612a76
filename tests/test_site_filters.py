"""Addresses and firewall rules follow the inventory."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import site_inventory as site
import yaml
from jinja2.exceptions import UndefinedError

PLAYBOOKS = Path(__file__).resolve().parents[1] / "playbooks"

GROUPS = {"loadbalancer": ["lb1"], "clawdbot": ["app1", "app2"], "redis": ["app2"], "elsewhere": ["x"]}
HOSTVARS = {
    "lb1": {"ansible_host": "10.0.0.1"},
    "app1": {"ansible_host": "bastion-name", "site_address": "10.0.0.2"},
    "app2": {"ansible_host": "10.0.0.3"},
    "10.0.0.9": {},
}


def test_address_prefers_site_address_then_ansible_host_then_the_name() -> None:
    hosts = ["app1", "app2", "10.0.0.9", "app2"]
    assert site.site_addresses(hosts, HOSTVARS) == ["10.0.0.2", "10.0.0.3", "10.0.0.9"]


def test_hosts_of_other_groups_are_not_part_of_the_site() -> None:
    assert site.site_hosts(GROUPS) == ["lb1", "app1", "app2"]


def test_a_node_that_is_leaving_is_in_no_group_any_more() -> None:
    assert site.site_groups(GROUPS, ["app2"], {}) == {
        "loadbalancer": ["lb1"],
        "clawdbot": ["app1"],
        "redis": [],
        "monitoring": [],
    }


@pytest.mark.parametrize(
    ("service", "host", "expected"),
    [
        ({"name": "http", "port": 80, "on": "loadbalancer", "to": "any"}, "lb1", ["any"]),
        ({"name": "bot", "port": 18789, "on": "clawdbot", "to": ["loadbalancer"]}, "app1", ["10.0.0.1"]),
        ({"name": "redis", "port": "6379", "on": "redis", "to": ["clawdbot"]}, "app2", ["10.0.0.2", "10.0.0.3"]),
        ({"name": "node", "port": 9100, "on": "site", "to": ["redis"]}, "app1", ["10.0.0.3"]),
        ({"name": "link", "port": 6380, "on": "redis", "sources": ["198.51.100.0/28"]}, "app2", ["198.51.100.0/28"]),
    ],
)
def test_a_host_opens_what_it_offers_to_those_who_use_it(
    service: dict[str, object], host: str, expected: list[str]
) -> None:
    rules = site.site_firewall([service], host, GROUPS, HOSTVARS)
    assert [rule["sources"] for rule in rules] == [expected]
    assert rules[0]["ports"] == [int(str(service["port"]))]


def test_a_host_opens_nothing_that_it_does_not_offer_and_nothing_for_nobody() -> None:
    redis = {"name": "redis", "port": 6379, "on": "redis", "to": ["clawdbot"]}
    unused = {"name": "node", "port": 9100, "on": "site", "to": ["monitoring"]}
    assert site.site_firewall([redis, unused], "lb1", GROUPS, HOSTVARS) == []
    link = {"name": "link", "port": 6380, "on": "redis", "sources": []}
    assert site.site_firewall([link], "app2", GROUPS, HOSTVARS) == []


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("203.0.113.10", "203.0.113.10", 6380),
        ("redis.example.com:7380", "redis.example.com", 7380),
        ("2001:db8::10", "2001:db8::10", 6380),
        ("[2001:db8::10]:7380", "2001:db8::10", 7380),
    ],
)
def test_a_site_is_reached_at_the_port_that_it_says(written: str, host: str, port: int) -> None:
    found = site.site_links({"beijing": {"redis": written, "addresses": ["198.51.100.1"]}}, 6380)
    assert found == {"beijing": {"name": "beijing", "host": host, "port": port, "addresses": ["198.51.100.1"]}}


NAT = {"ansible_host": "203.0.113.10", "ssh_login": {"server": "172.16.3.4", "addresses": {"172.16.3.4": "eth0"}}}


def test_behind_nat_a_host_has_the_address_at_which_the_login_arrived() -> None:
    assert site.site_own_address("bot1", {"bot1": NAT}) == "172.16.3.4"
    assert site.site_addresses(["bot1"], {"bot1": NAT}) == ["203.0.113.10"]
    assert site.site_host_addresses(["bot1"], {"bot1": NAT}, {"bot1": "127.0.0.1"}) == {"bot1": "127.0.0.1"}


@pytest.mark.parametrize("written", ["2001:db8::1", "2001:DB8:0::1"])
def test_an_address_of_an_interface_stays_the_one_of_the_inventory(written: str) -> None:
    login = {"server": "10.0.0.9", "addresses": {"10.0.0.9": "eth1", "2001:db8::1": "eth0"}}
    assert site.site_own_address("a", {"a": {"site_address": written, "ssh_login": login}}) == written


def test_a_host_that_nobody_asked_has_the_address_of_the_inventory() -> None:
    assert site.site_own_address("lb1", HOSTVARS) == "10.0.0.1"


def test_a_balancer_asks_the_bot_beside_it_at_its_loopback_address() -> None:
    addresses = [member["address"] for member in site.site_members(["lb1", "app2"], HOSTVARS, 18789, "app2")]
    assert addresses == ["10.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("arguments", "ports"),
    [
        ("-o ProxyJump=debian@203.0.113.5", [22]),
        ("-o ProxyJump=debian@203.0.113.5:2222 -o LogLevel=ERROR", [2222]),
        ("-J outer@198.51.100.1,bastion:2200", [2200]),
        ('-o ProxyCommand="ssh -W %h:%p -p 2022 debian@203.0.113.5"', [2022]),
        ('-o ProxyCommand="ssh debian@bastion nc %h %p"', [22]),
        ("-o ProxyJump=debian@203.0.113.55", []),
        ("-o LogLevel=ERROR", []),
    ],
)
def test_the_port_through_which_others_are_reached_is_known(arguments: str, ports: list[int]) -> None:
    hosts = {"bastion": {"ansible_host": "203.0.113.5"}, "app1": {"ansible_ssh_common_args": arguments}}
    assert site.site_jump_ports("bastion", hosts, site.site_jumps(hosts)) == ports
    assert site.site_jump_ports("app1", hosts, site.site_jumps(hosts)) == []


def test_a_host_that_only_its_own_login_would_go_through_leads_to_nobody() -> None:
    through = {"ansible_ssh_common_args": "-J bastion:2222"}
    for others, ports in (({}, []), ({"app1": through}, [2222])):
        hosts = {"bastion": through, **others}
        assert site.site_jump_ports("bastion", hosts, site.site_jumps(hosts)) == ports


def test_a_host_through_which_others_are_reached_keeps_forwarding(tmp_path: Path) -> None:
    play = {"hosts": "all", "connection": "local", "gather_facts": False, "roles": ["site"]}
    defaults = yaml.safe_load((PLAYBOOKS.parent / "roles/ssh/defaults/main.yml").read_text("utf-8"))
    harden = yaml.safe_load((PLAYBOOKS / "harden.yml").read_text("utf-8"))[1]["vars"]
    names = ("ssh_jump_host", "ssh_allow_tcp_forwarding")
    play |= {"vars": {name: (defaults | harden)[name] for name in names}}
    play |= {"tasks": [{"ansible.builtin.debug": {"msg": "{{ inventory_hostname }}: {{ ssh_allow_tcp_forwarding }}."}}]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), "utf-8")
    hosts = "one ansible_host=203.0.113.5 site_address=10.0.0.5\ntwo ansible_host=203.0.113.6\n"
    hosts += "app1 ansible_ssh_extra_args='-J root@10.0.0.5'\napp2 ansible_ssh_common_args='-o ProxyJump=two'\n"
    (tmp_path / "hosts").write_text(hosts, "utf-8")
    command = ["ansible-playbook", "--inventory", str(tmp_path / "hosts"), str(tmp_path / "play.yml")]
    run = subprocess.run(command, cwd=PLAYBOOKS.parent, capture_output=True, text=True, check=True)
    for said in ("one: local.", "two: local.", "app1: no.", "app2: no."):
        assert said in run.stdout, run.stdout


WATCHED = {"clawdbot": ["app1", "app2"], "monitoring": ["mon1"]}
CHAT = {"clawdbot_alerts_feishu_chat": "oc_1"}
TOKEN = {"site_alerts_token": "t"}


def unheard(mon1: Mapping[str, object], app2: Mapping[str, object]) -> str:
    return site.site_unheard(WATCHED, {"app1": {}, "app2": app2, "mon1": mon1})


def test_a_platform_that_calls_one_node_back_has_to_reach_it() -> None:
    ding, lark = {"clawdbot_dingtalk_app_key": "d"}, {"clawdbot_feishu_app_id": "f"}
    stream, connection = {"clawdbot_dingtalk_intake": "stream"}, {"clawdbot_feishu_intake": "connection"}
    nodes = {"app1": ding | stream | lark | connection, "app2": ding | lark | connection, "app3": stream}
    assert site.site_intakes(["app1"], nodes) == {"dingtalk": "stream", "feishu": "connection"}
    assert site.site_intakes(["app1", "app2"], nodes) == {"dingtalk": "http", "feishu": "connection"}
    assert site.site_intakes(["app2", "app1"], nodes) == {"dingtalk": "http", "feishu": "connection"}
    assert site.site_intakes(["app3"], nodes) == {}


def test_only_nodes_with_a_chat_are_told_of_alerts() -> None:
    robots = {
        "app1": {"clawdbot_dingtalk_access_token": "t"},
        "app2": CHAT,
        "app3": {"clawdbot_dingtalk_webhook_url": "https://oapi.dingtalk.com/robot/send?access_token=t"},
        "app4": {"clawdbot_dingtalk_access_token": "", "clawdbot_dingtalk_webhook_url": "https://example.com/send"},
    }
    assert site.site_alert_nodes(robots, robots) == ["app1", "app2", "app3"]


@pytest.mark.parametrize(
    ("mon1", "app2"),
    [
        (TOKEN, CHAT),
        ({"monitoring_email_to": "ops@example.org"}, {}),
        ({"monitoring_webhook_urls": ["https://example.org/alerts"]}, {}),
    ],
)
def test_alerts_that_reach_somebody_need_no_word(mon1: dict[str, object], app2: dict[str, object]) -> None:
    assert unheard(mon1, app2) == ""


class FromAfar(dict[str, object]):
    """Variables of a host, one of which is made of another host's: Ansible cannot tell it to a third one."""

    def get(self, name: str, default: object = None) -> object:
        """As of a dict, with jinja2's error where the value is not to be told."""
        if super().get(name) is FromAfar:
            raise UndefinedError("'hostvars' is undefined")
        return super().get(name, default)


def test_what_cannot_be_read_from_afar_has_been_set() -> None:
    assert unheard(TOKEN, FromAfar(clawdbot_dingtalk_webhook_url=FromAfar)) == ""
    assert unheard(FromAfar(site_alerts_token=FromAfar), {}) == ""


def test_alerts_that_reach_nobody_are_told_and_what_to_write() -> None:
    for cure in ("clawdbot_dingtalk_access_token", "clawdbot_alerts_feishu_chat", "monitoring_email_to"):
        assert cure in unheard(TOKEN, {})
    assert "make secrets" not in unheard(TOKEN, {})
    assert "site_alerts_token" in unheard({}, CHAT)
    assert site.site_unheard({"clawdbot": ["app1"], "monitoring": []}, {"app1": {}}) == ""


THREE = ["a", "b", "c"]
LAYOUTS = [
    ([THREE] * 3, {"site_floating_addresses": ["10.0.0.9/24"]}, "Any server may die, not any 2."),
    ([THREE] * 3, {}, "Any server may die, not any 2, if what is in front of a, b, c passes over a dead one."),
    ([["a"], THREE, ["d"]], {}, "Nobody stands in for a (loadbalancer), d (redis); see docs/availability.md."),
    ([[], THREE, []], {}, "Any 2 servers may die, not any 3."),
    ([[], THREE, [*THREE, "d", "e"]], {}, "Any 2 servers may die, not any 3."),
    ([["a"]] * 3, {}, ""),
]


@pytest.mark.parametrize(("layout", "variables", "said"), LAYOUTS)
def test_which_deaths_a_layout_survives(layout: list[list[str]], variables: dict[str, object], said: str) -> None:
    groups = dict(zip(("loadbalancer", "clawdbot", "redis"), layout, strict=True))
    assert site.site_survives(groups, {"a": variables}) == said


BATCHES = [(0, 25, 1), (4, 25, 4), (25, 25, 25), (26, 25, 13), (300, 25, 25), (301, 25, 24), (500, 5, 5)]


@pytest.mark.parametrize(("hosts", "forks", "batch"), BATCHES)
def test_no_host_waits_for_others_between_change_and_proof(hosts: int, forks: int, batch: int) -> None:
    assert site.site_batch([str(number) for number in range(hosts)], forks) == batch


def test_safety_timers_hold_however_many_hosts_there_are(tmp_path: Path) -> None:
    """The play Harden with other tasks: what one batch has loaded is confirmed before the next one loads."""
    plays = yaml.safe_load((PLAYBOOKS / "harden.yml").read_text("utf-8"))
    harden = next(play for play in plays if play["name"] == "Harden")
    tasks = [{"name": step, "ansible.builtin.debug": {"msg": ""}} for step in ("Load", "Confirm")]
    groups = {"site_patterns": {"site": "loadbalancer,clawdbot,redis,monitoring"}}  # as role site has it
    play = {"hosts": harden["hosts"], "gather_facts": False, "serial": harden["serial"], "vars": groups, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), "utf-8")
    (tmp_path / "hosts").write_text("[clawdbot]\n" + "".join(f"node{number}\n" for number in range(24)), "utf-8")
    command = ["ansible-playbook", "--forks", "10", "--inventory", str(tmp_path / "hosts"), str(tmp_path / "play.yml")]
    run = subprocess.run(command, cwd=PLAYBOOKS.parent, capture_output=True, text=True, check=True)
    tasks_run = run.stdout.split("TASK [")[1:]
    assert [(task.split("]")[0], task.count("ok: ")) for task in tasks_run] == [("Load", 8), ("Confirm", 8)] * 3


@pytest.mark.parametrize(
    ("written", "batches"),
    [("", [1, 2, 2, 2, 2]), ('site_serial: ["2", "50%"]\n', [2, 4, 3]), ("site_serial: [9]\n", [9])],
)
def test_nodes_change_in_the_batches_that_the_inventory_says(written: str, batches: list[int], tmp_path: Path) -> None:
    plays = yaml.safe_load((PLAYBOOKS / "app.yml").read_text("utf-8"))
    turns = next(play for play in plays if "serial" in play)
    play = {key: turns[key] for key in ("hosts", "serial", "roles")} | {"connection": "local", "gather_facts": False}
    # Ansible says the name of a task once, unless another one was in between.
    play |= {"tasks": [{"name": step, "ansible.builtin.debug": None} for step in ("Begin", "End")]}
    # Only after a first play Ansible knows what the inventory says.
    plays = [{"hosts": "all", "gather_facts": False}, play]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(plays), "utf-8")
    (tmp_path / "hosts").write_text("[clawdbot]\n" + "".join(f"app{number}\n" for number in range(9)), "utf-8")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/clawdbot.yml").write_text(f"site_redis_password: {'x' * 16}\n{written}", "utf-8")
    command = ["ansible-playbook", "--inventory", str(tmp_path / "hosts"), str(tmp_path / "play.yml")]
    run = subprocess.run(command, cwd=PLAYBOOKS.parent, capture_output=True, text=True, check=True)
    assert [turn.partition("TASK [")[0].count("ok: ") for turn in run.stdout.split("TASK [Begin")[1:]] == batches


def test_a_run_goes_on_with_the_balancer_and_the_keeper_that_answer(tmp_path: Path) -> None:
    play = {"hosts": "app1", "connection": "local", "gather_facts": False, "roles": ["site"]}
    play |= {"vars": {"site_absent": ["lb2", "redis1"]}}
    said = "{{ site_balancers | join(',') }} {{ site_keeper }} {{ site_groups.loadbalancer | join(',') }}."
    play |= {"tasks": [{"ansible.builtin.debug": {"msg": said}}]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), "utf-8")
    hosts = "[loadbalancer]\nlb1\nlb2\n[clawdbot]\napp1\n[redis]\nredis1\n"
    (tmp_path / "hosts").write_text(f"{hosts}[all:vars]\nsite_redis_password={'x' * 16}\n", "utf-8")
    command = ["ansible-playbook", "--inventory", str(tmp_path / "hosts"), str(tmp_path / "play.yml")]
    run = subprocess.run(command, cwd=PLAYBOOKS.parent, capture_output=True, text=True, check=True)
    assert "lb1 lb1 lb1,lb2." in run.stdout, "a balancer that is away is still one of them"


def test_a_node_that_has_to_change_waits_for_redis_and_no_other_does(tmp_path: Path) -> None:
    plays = yaml.safe_load((PLAYBOOKS / "app.yml").read_text("utf-8"))
    check = next(task for task in plays[0]["tasks"] if task["name"].startswith("Check that Redis answers"))
    play = {"hosts": "clawdbot", "connection": "local", "gather_facts": False, "roles": ["site"], "tasks": [check]}
    play |= {"vars": {"site_absent": ["redis1"], "loadbalancer_drained": []}}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), "utf-8")
    hosts = "[clawdbot]\napp1 __clawdbot_outdated=True\napp2 __clawdbot_outdated=False\n[redis]\nredis1\n"
    (tmp_path / "hosts").write_text(f"{hosts}[all:vars]\nsite_redis_password={'x' * 16}\n", "utf-8")
    command = ["ansible-playbook", "--inventory", str(tmp_path / "hosts"), str(tmp_path / "play.yml")]
    run = subprocess.run(command, cwd=PLAYBOOKS.parent, capture_output=True, text=True, check=False)
    assert "app1 has to change, but redis1 does not answer" in " ".join(run.stdout.split())
    assert "app2 has to change" not in run.stdout
