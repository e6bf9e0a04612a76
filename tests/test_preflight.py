"""Preflight finds everything that is wrong with an inventory at once and says where it stands."""

import datetime
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import site_preflight
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from site_secrets import link

GOOD_HOSTS = """
all:
  children:
    loadbalancer: {hosts: {lb1: {ansible_host: 192.0.2.1}}}
    clawdbot:
      hosts:
        app1: {ansible_host: 192.0.2.11}
        app2: {ansible_host: 192.0.2.12}
    redis: {hosts: {redis1: {ansible_host: 192.0.2.21}}}
"""
GOOD_VARS = """
site_redis_password: 0123456789abcdef0123
clawdbot_feishu_app_id: cli_1
clawdbot_feishu_app_secret: s1
clawdbot_feishu_encryption_key: k1
clawdbot_feishu_verification_token: t1
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def preflight(tmp_path: Path, root: Path) -> Run:
    """Runs the playbook on an inventory of the given texts."""

    def run(
        hosts: str = GOOD_HOSTS,
        variables: str = GOOD_VARS,
        *arguments: str,
        playbook: str = "playbooks/preflight.yml",
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "group_vars/all").mkdir(parents=True, exist_ok=True)
        (tmp_path / "hosts.yml").write_text(hosts, "utf-8")
        (tmp_path / "group_vars/all/main.yml").write_text(variables, "utf-8")
        command = ["ansible-playbook", "-i", str(tmp_path), playbook, *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)

    return run


def test_a_sound_inventory_passes(preflight: Run) -> None:
    done = preflight()
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_wrong_is_listed_at_once(preflight: Run) -> None:
    hosts = """
all:
  children:
    loadbalancer: {hosts: {}}
    clawdbot:
      hosts:
        app1: {ansible_host: 192.0.2.11, clawdbot_port: eighty}
        app2: {ansible_host: 192.0.2.11}
        app3: {}
"""
    variables = """
clawdbot_modle_type: gpt
clawdbot_dingtalk_app_key: your_app_key
clawdbot_dingtalk_aes_key: short
clawdbot_model_type: gpt
site_ssh_port: "{{ nowhere }}"
site_domain: [a, b]
clawdbot_dingtalk_robot_secret: SEC1
clawdbot_dingtalk_allow_users: alice,bob
clawdbot_model_vision: perhaps
clawdbot_extra_environment: {MODEL_NAME: x, "no name": y, HTTPS_PROXY: "http://proxy.example.com:3128"}
"""
    done = preflight(hosts, variables, "-e", "nginx_worker_conections=1")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    for expected in (
        "hosts.yml:4: loadbalancer: the group is empty",
        "redis: the group is missing",
        "hosts.yml:7: clawdbot_port:",
        "hosts.yml:8: ansible_host: app2 and app1 have the same address 192.0.2.11",
        "hosts.yml:9: app3: app3: 'app3' is not an IP address",
        "main.yml:2: clawdbot_modle_type: no role knows this variable; did you mean clawdbot_model_type?",
        "main.yml:9: clawdbot_dingtalk_allow_users: must be a list",
        "main.yml:10: clawdbot_model_vision: value of clawdbot_model_vision must be one of",
        "main.yml:11: clawdbot_extra_environment: MODEL_NAME is the role's to set; use clawdbot_model_name",
        "main.yml:11: clawdbot_extra_environment: 'no name' is no name of an environment variable",
        "main.yml:3: clawdbot_dingtalk_app_key: still holds the placeholder 'your_app_key'",
        "main.yml:4: clawdbot_dingtalk_aes_key: has 5 characters, DingTalk's have 43",
        "main.yml:6: site_ssh_port: cannot be worked out",
        "main.yml:7: site_domain: must be a text, not a list",
        "secrets.yml: clawdbot_dingtalk_app_secret: is missing",
        "secrets.yml: clawdbot_model_api_key: is missing",
        "secrets.yml: site_redis_password: is missing",
        "secrets.yml: clawdbot_dingtalk_access_token: is missing; clawdbot_dingtalk_robot_secret is set",
        "-e: nginx_worker_conections: no role knows this variable; did you mean nginx_worker_connections?",
    ):
        assert expected in said, f"{expected!r} is not in:\n{said}"


WATCHED = GOOD_HOSTS + "    monitoring: {hosts: {redis1: {}}}\n"
ALERTS = f"{GOOD_VARS}site_alerts_token: 0123456789abcdef0123\n"


def test_alerts_without_a_chat_stop_nobody(preflight: Run) -> None:
    done = preflight(WATCHED, ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Alerts reach nobody yet: write clawdbot_dingtalk_access_token" in done.stdout


@pytest.mark.parametrize(
    ("half", "name", "said"),
    [
        ({"clawdbot_dingtalk_robot_secret": "SEC1"}, "clawdbot_dingtalk_access_token", "is missing"),
        ({"clawdbot_dingtalk_access_token": "abc"}, "clawdbot_dingtalk_app_key", "is missing"),
        ({"clawdbot_alerts_feishu_chat": "oc_1"}, "clawdbot_feishu_app_id", "is missing"),
        (
            {"clawdbot_dingtalk_app_key": "d", "clawdbot_dingtalk_access_token": "https://x/send?access_token=a"},
            "clawdbot_dingtalk_access_token",
            "write what follows access_token= only",
        ),
        (
            {"clawdbot_feishu_app_id": "cli_1", "clawdbot_alerts_feishu_chat": "Operators"},
            "clawdbot_alerts_feishu_chat",
            "'Operators' is no chat_id",
        ),
    ],
)
def test_a_chat_that_is_half_written_is_refused(half: dict[str, str], name: str, said: str) -> None:
    checks = site_preflight.Preflight({}, {}, {}, site_preflight.Sources([]))
    checks.check_chats("app1", half)
    (finding,) = checks.findings
    assert finding.key == name
    assert said in finding.cure


OLD_KEY = "0" * 43
REPLACED = {
    "clawdbot_dingtalk_app_secret": "new",
    "clawdbot_dingtalk_aes_key": "1" * 43,
    "clawdbot_dingtalk_token": "new",
    "site_alerts_token": "new",
}


@pytest.mark.parametrize(
    ("name", "former", "said", "refused"),
    [
        ("dingtalk", {"app_secret": "old", "aes_key": OLD_KEY, "token": "old", "until": "2199-01-31"}, "", False),
        ("dingtalk", {"token": "old", "until": datetime.date(2199, 1, 31)}, "", False),
        ("alerts", {"token": "old", "until": "2199-01-31T08:00:00+08:00"}, "", False),
        ("dingtalk", {}, "", False),
        ("dingtalk", {"token": "old", "until": "next week"}, "until: 'next week' is no ISO 8601 date", True),
        ("dingtalk", {"token": "old", "until": "9999-12-31"}, "is no ISO 8601 date", True),
        ("dingtalk", {"token": "old"}, "until: is missing; write the date", True),
        ("alerts", {"token": "old", "until": ""}, "until: is missing; write the date", True),
        ("dingtalk", {"token": "old", "until": "2020-01-31"}, "until: is over", False),
        ("dingtalk", {"until": "2199-01-31"}, "until: is of no use", False),
        ("dingtalk", {"token": "new", "until": "2199-01-31"}, "token: is the present clawdbot_dingtalk_token", False),
        ("alerts", {"token": "new", "until": "2199-01-31"}, "token: is the present site_alerts_token", False),
        ("feishu", {"app_secret": "old", "until": "2199-01-31"}, "clawdbot_feishu_app_secret is empty", True),
        ("dingtalk", {"aes_key": "short", "until": "2199-01-31"}, "aes_key: has 5 characters", True),
        ("dingtalk", {"tokn": "old", "until": "2199-01-31", "token": "o"}, "tokn: is not known", True),
        ("dingtalk", {"token": 12345678, "until": "2199-01-31"}, "token: has to be in quotes", True),
        ("alerts", {"token": "it's", "until": "2199-01-31"}, "token: holds a quote", True),
        ("alerts", {"token": "<the old one>", "until": "2199-01-31"}, "still holds the placeholder", True),
        ("alerts", "old", "has the wrong type or value", True),
    ],
)
def test_former_secrets_have_a_date_and_were_replaced(
    name: str, former: object, said: str, refused: bool, root: Path
) -> None:
    specs = site_preflight.load_specs(root / "roles")
    checks = site_preflight.Preflight({}, {}, specs, site_preflight.Sources([]))
    checks.check_values("app1", {f"clawdbot_{name}_former": former, **REPLACED})
    found, other = (checks.findings, checks.warnings) if refused else (checks.warnings, checks.findings)
    assert not other
    assert len(found) == (1 if said else 0), found
    assert all(said in finding.cure for finding in found)


@pytest.mark.parametrize("written", ["2199-01-31", "2199-01-31T08:00", "2199-01-31 08:00:00+08:00", "21990131", "soon"])
def test_a_date_is_over_when_the_bot_says_so(written: str, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.syspath_prepend(str(root / "app"))
    reader = importlib.import_module("clawdbot.config.reader").Reader("file", {"until": written})
    end = site_preflight.end_of(written)
    assert reader.moment("until", whole_day=True) == (end.timestamp() if end else None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "clawdbot"]:
        monkeypatch.delitem(sys.modules, name)


def test_former_secrets_are_never_shown_and_stop_nobody(preflight: Run) -> None:
    variables = f"{GOOD_VARS}clawdbot_feishu_former: {{verification_token: s3cr3t, until: 2020-01-31}}\n"
    done = preflight(GOOD_HOSTS, variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "main.yml:7: clawdbot_feishu_former: until: is over" in re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert "s3cr3t" not in done.stdout + done.stderr


def test_a_proxy_and_archives_are_urls_that_every_program_takes(preflight: Run) -> None:
    variables = f"""{GOOD_VARS}
site_proxy: http://bot:s3cr@t@proxy.example.com:3128
site_no_proxy: [.example.com, 10.0.0.0/8, "fd00::/8", 192.0.2.7, "*.example.org", "http://mirror.example.net", "a,b"]
base_apt_mirror: https://bot:s3cr%40t@mirror.example.com/debian
base_pip_index: https://bot:s3cr/t@pypi.example.com/simple
base_npm_registry: npm.example.com
clawdbot_pip_index_url: https://bot:s3cr%t@pypi.example.com/simple
"""
    done = preflight(GOOD_HOSTS, variables)
    assert done.returncode != 0
    for expected in (
        "main.yml:8: site_proxy: must be http://host:port or http://user:password@host:port; in user and password",
        "main.yml:9: site_no_proxy: '*.example.org' is no domain, address or network; write example.com",
        "main.yml:9: site_no_proxy: 'http://mirror.example.net' is no",
        "main.yml:9: site_no_proxy: 'a,b' is no",
        "main.yml:11: base_pip_index: must be https://host/path",
        "main.yml:12: base_npm_registry: must be",
        "main.yml:13: clawdbot_pip_index_url: must be",
    ):
        assert expected in done.stdout, f"{expected!r} is not in:\n{done.stdout}"
    assert "7 thing(s)" in done.stdout
    assert "s3cr" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "proxy",
    [
        "http://proxy:3128",
        "http://10.0.0.1:3128/",
        "https://b%40t:p-w_%25@proxy.example.com:3129",
        "http://[fd00::1]:80",
    ],
)
def test_a_proxy_may_be_written_in_many_ways(proxy: str) -> None:
    assert site_preflight.PROXY.fullmatch(proxy)
    assert site_preflight.ARCHIVE.fullmatch(proxy)


@pytest.mark.parametrize(
    "proxy",
    ["proxy:3128", "http://proxy", "socks5://proxy:1080", "http://p:1/path", "http://a b@p:1", "http://it's@p:1"],
)
def test_what_not_every_program_takes_is_no_proxy(proxy: str) -> None:
    assert not site_preflight.PROXY.fullmatch(proxy)


def test_what_the_plays_set_is_refused_with_what_to_write_instead(preflight: Run) -> None:
    """The names are read from the plays: an inventory could not change them, and the run would not say so."""
    hosts = GOOD_HOSTS.replace("192.0.2.11}", "192.0.2.11, exporters_address: 192.0.2.11}")
    variables = f"""{GOOD_VARS}
ssh_port: 22
fail2ban_ignore: [198.51.100.1]
loadbalancer_http_ports: [80, 18789]
firewall_services: []
monitoring_scrapes: []
fail2ban_ignoreip: 198.51.100.1
"""
    done = preflight(hosts, variables, "-e", "redis_port=6380")
    assert done.returncode != 0
    for place, name, instead in (
        ("main.yml:8", "ssh_port", "write site_ssh_port"),
        ("main.yml:9", "fail2ban_ignore", "write site_admin_sources"),
        ("main.yml:10", "loadbalancer_http_ports", "write site_http_port"),
        ("main.yml:11", "firewall_services", "write site_services or firewall_extra_services"),
        ("main.yml:12", "monitoring_scrapes", "write site_"),
        ("main.yml:13", "fail2ban_ignoreip", "did you mean fail2ban_ignore? But write site_admin_sources"),
        ("hosts.yml:7", "exporters_address", "take it out"),
        ("- -e", "redis_port", "write site_redis_port"),
    ):
        assert re.search(rf"{re.escape(place)}: {name}: .*{re.escape(instead)}", done.stdout), f"{name}\n{done.stdout}"
    assert "8 thing(s)" in done.stdout


def test_a_variable_that_is_new_in_a_play_is_refused_by_itself(root: Path, tmp_path: Path) -> None:
    plays = """
- import_playbook: playbooks/other.yml
  vars: {site_leaving: []}
- hosts: all
  vars: {play_port: "{{ site_bot_port }}", clawdbot_port: "{{ play_port }}"}
  vars_files: [vars/more.yml]
  roles:
    - role: redis
      vars: {redis_password: "{{ site_redis_password }}"}
  tasks:
    - block:
        - import_role: {name: ssh}
          vars: {ssh_port: "{{ site_ssh_port }}", ssh_anything: 1}
"""
    for file, text in {
        "site.yml": plays,
        "playbooks/vars/more.yml": 'loadbalancer_domain: "{{ site_domain }}"',
        "roles/site/defaults/main.yml": "",
        "roles/nginx/tasks/main.yml": "[{debug: , vars: {nginx_packages: []}}]",
        "roles/nginx/vars/main.yml": "nginx_worker_connections: 1",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, "utf-8")
    specs = site_preflight.load_specs(root / "roles")
    found = site_preflight.Plays(tmp_path, {name: option for spec in specs.values() for name, option in spec.items()})
    assert found.given == {
        *("site_leaving", "clawdbot_port", "loadbalancer_domain", "redis_password", "ssh_port"),
        *("nginx_packages", "nginx_worker_connections"),
    }
    assert found.cure("clawdbot_port").endswith("write site_bot_port")


def test_what_belongs_to_other_roles_is_mentioned_and_a_slip_refused(preflight: Run) -> None:
    foreign = """
docker_users: [me]
nginx_vhosts: []
python_version: 3.9
firewall_allowed_tcp_ports: [22]
site_company: My shop
"""
    done = preflight(
        GOOD_HOSTS, f"{GOOD_VARS}{foreign}docker_package: docker-ce\nsite_foreign_variables: [docker_package]\n"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stderr.split())
    assert "main.yml:8: docker_users: no role of this package knows it; the nearest one is docker_" in said
    for name in ("nginx_vhosts", "python_version", "firewall_allowed_tcp_ports", "site_company"):
        assert f": {name}: no role" in said
    assert "docker_package:" not in said


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("clawbot_model_type", "clawdbot_model_type"),
        ("clawdbot_modle_type", "clawdbot_model_type"),
        ("sit_redis_password", "site_redis_password"),
        ("site_domian", "site_domain"),
        ("site_backup_repo", "site_backup_repository"),
        ("ngnix_worker_connections", "nginx_worker_connections"),
        ("loadbalancer_tsl", "loadbalancer_tls"),
        ("redis_maxmem", "redis_maxmemory"),
        ("firewall_extra_service", "firewall_extra_services"),
        ("backup_extra_path", "backup_extra_paths"),
        ("clawdbot_nothing_like_it", ""),
    ],
)
def test_a_slip_is_told_from_a_foreign_name(slip: str, meant: str, root: Path) -> None:
    specs = site_preflight.load_specs(root / "roles")
    checks = site_preflight.Preflight({}, {"app1": {}}, specs, site_preflight.Sources([]))
    checks.check_names("app1", {slip: 1})
    assert [finding.key for finding in checks.findings] == [slip]
    assert f"did you mean {meant}" in str(*checks.findings)


def test_a_redis_of_somebody_else_takes_the_place_of_the_group(preflight: Run) -> None:
    without = GOOD_HOSTS.replace("    redis: {hosts: {redis1: {ansible_host: 192.0.2.21}}}\n", "")
    elsewhere = GOOD_VARS + "site_redis_host: redis.example.com\nclawdbot_redis_tls: true\n"
    done = preflight(without, elsewhere)
    assert done.returncode == 0, done.stdout
    both = preflight(GOOD_HOSTS, elsewhere)
    assert both.returncode != 0
    assert "redis: the bot would use redis.example.com (site_redis_host)" in both.stdout


def test_three_servers_of_redis_pass(preflight: Run) -> None:
    three = "redis1: {ansible_host: 192.0.2.21}, redis2: {ansible_host: 192.0.2.22}, redis3: {ansible_host: 192.0.2.23}"
    done = preflight(GOOD_HOSTS.replace("redis1: {ansible_host: 192.0.2.21}", three))
    assert done.returncode == 0, done.stdout


def test_two_redis_hosts_are_refused_whichever_is_first(preflight: Run) -> None:
    two = GOOD_HOSTS.replace("redis1: {", "redis2: {ansible_host: 192.0.2.22}, redis1: {")
    done = preflight(two)
    assert done.returncode != 0
    assert "hosts.yml:9: redis: the group has 2 hosts (redis2, redis1), which cannot agree on who leads" in done.stdout


BALANCERS = "lb1: {ansible_host: 192.0.2.1}, lb2: {ansible_host: 192.0.2.2}"


@pytest.mark.parametrize(
    ("balancers", "addresses", "cure"),
    [
        (BALANCERS, "[192.0.2.100/24, 192.0.2.101/24]", ""),
        ("lb1: {ansible_host: 192.0.2.1}", "[192.0.2.100/24]", "moves between two balancers or more"),
        (BALANCERS, "[192.0.2.3/24, 192.0.2.4/24, 192.0.2.5/24]", "has 3 addresses for 2 balancers"),
        (BALANCERS, "[192.0.2.100]", "'192.0.2.100' is no address with the length of its network"),
        (BALANCERS, "[192.0.2.2/24]", "192.0.2.2 is that of lb2 alone"),
        (BALANCERS, "[192.0.2.130/25]", "192.0.2.130/25 is not in the network of lb1"),
    ],
)
def test_floating_addresses_have_balancers_to_move_between(
    balancers: str, addresses: str, cure: str, preflight: Run
) -> None:
    hosts = GOOD_HOSTS.replace("lb1: {ansible_host: 192.0.2.1}", balancers)
    done = preflight(hosts, GOOD_VARS + f"site_floating_addresses: {addresses}\n")
    assert (done.returncode == 0) == (not cure), done.stdout
    assert cure in done.stdout


@pytest.mark.parametrize("limit", ["app2", "app*", "redis", "@RETRY", "all:!app1"])
def test_limit_leaves_the_check_whole(limit: str, preflight: Run, tmp_path: Path) -> None:
    (tmp_path / "site.retry").write_text("app2\n", "utf-8")
    hosts = GOOD_HOSTS.replace("app1: {", "app1: {ssh_port: 22, ")
    done = preflight(hosts, GOOD_VARS, "--limit", limit.replace("@RETRY", f"@{tmp_path}/site.retry"))
    assert done.returncode != 0
    assert "hosts.yml:7: ssh_port: the plays set it" in done.stdout


def test_a_tag_that_no_task_has_is_refused(
    preflight: Run, tmp_path_factory: pytest.TempPathFactory, root: Path
) -> None:
    """But for those of somebody's playbook that imports ours."""
    done = preflight(GOOD_HOSTS, GOOD_VARS, "--tags", "clawdbto,redis_configure")
    assert done.returncode != 0
    assert "--tags: clawdbto: no task has this tag; did you mean clawdbot?" in done.stdout
    assert "1 thing(s)" in done.stdout
    other = tmp_path_factory.mktemp("mine") / "mine.yml"
    ours = f"- import_playbook: {root}/playbooks/preflight.yml\n"
    other.write_text(f"{ours}- hosts: all\n  gather_facts: false\n  tags: shop\n", "utf-8")
    done = preflight(GOOD_HOSTS, GOOD_VARS, "--tags", "shop", playbook=str(other))
    assert done.returncode == 0, done.stdout


def test_an_inventory_without_hosts_is_no_success(preflight: Run) -> None:
    done = preflight("all: {}\n", "")
    assert done.returncode != 0
    assert "clawdbot: the group is missing" in done.stdout


def test_the_place_is_named_in_every_kind_of_file(root: Path, tmp_path: Path) -> None:
    """INI inventories, files without an ending, and what Vault has encrypted."""
    ini = """# 192.0.2.0/24
[clawdbot]
app1 ansible_host=192.0.2.11 clawdbot_port=18789
[clawdbot:vars]
ssh_port=22
[redis]
redis1 ansible_host=192.0.2.21
"""
    (tmp_path / "hosts").write_text(ini, "utf-8")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/redis").write_text("redis_port: 6380\n", "utf-8")
    (tmp_path / "password").write_text("pass\n", "utf-8")
    sealed = tmp_path / "host_vars/app1"
    sealed.mkdir(parents=True)
    (sealed / "secrets.yml").write_text("# sealed\nclawdbot_redis_password: hunter2hunter2hunter2\n", "utf-8")
    vault = ["--vault-password-file", str(tmp_path / "password")]
    subprocess.run(["ansible-vault", "encrypt", *vault, str(sealed / "secrets.yml")], capture_output=True, check=True)
    command = ["ansible-playbook", "-i", str(tmp_path / "hosts"), "playbooks/preflight.yml", *vault]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    for place in (
        "hosts:3: clawdbot_port",
        "hosts:5: ssh_port",
        "redis:1: redis_port",
        "secrets.yml:2: clawdbot_redis_password",
    ):
        assert place in done.stdout, f"{place}\n{done.stdout}{done.stderr}"
    assert "hunter2" not in done.stdout + done.stderr


def test_the_place_of_a_host_is_named_whichever_way_it_is_written(tmp_path: Path) -> None:
    """Ranges, and hosts of an INI inventory that have no variables."""
    (tmp_path / "one.yml").write_text("clawdbot:\n  hosts:\n    app[1:2]:\n      ssh_port: 22\n", "utf-8")
    (tmp_path / "two").write_text("[clawdbot]\napp3\napp[4:5] fail2ban_ignore=[]\n", "utf-8")
    sources = site_preflight.Sources([str(tmp_path)])
    for name, line in {"app1": "one.yml:3", "app2": "one.yml:3", "app3": "two:2", "app5": "two:3"}.items():
        assert sources.where(name, name).endswith(line), name
    assert sources.where("ssh_port", "app2").endswith("one.yml:4")
    assert sources.where("fail2ban_ignore", "app5").endswith("two:3")


def test_files_that_ansible_does_not_read_are_refused(preflight: Run, tmp_path: Path) -> None:
    """Of files of one name it reads the first; a folder comes before all of them."""
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text("clawdbot_feishu_allow_users: [ou_1]\n", "utf-8")
    (tmp_path / "host_vars").mkdir()
    for ending in (".yml", ".yaml", ".txt"):
        (tmp_path / f"host_vars/app1{ending}").write_text("site_member_weight: 2\n", "utf-8")
    (tmp_path / "more.yml").write_text("clawdbot:\n  hosts\n    app3:\n", "utf-8")
    done = preflight()
    assert done.returncode != 0
    for said in (
        f"group_vars/all.yml: all: Ansible reads the folder all/ instead of this file; mv {tmp_path}/group_vars/all.yml"
        f" {tmp_path}/group_vars/all/",
        "host_vars/app1.yaml: app1: Ansible reads app1.yml instead of this file; put both into one",
        "more.yml:3: more.yml: is not YAML, so none of it counts",
    ):
        assert said in done.stdout, done.stdout
    assert "3 thing(s)" in done.stdout


def test_a_rotation_that_was_interrupted_is_mentioned(preflight: Run) -> None:
    done = preflight(GOOD_HOSTS, f"{GOOD_VARS}site_rotated: {{site_redis_password: fedcba98765432100123}}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stderr.split())
    assert (
        "the former values of site_redis_password are not proven dead yet; run playbooks/rotate_secrets.yml again"
        in said
    )
    assert "fedcba98" not in done.stdout + done.stderr


def test_groups_with_nearly_our_names_are_mentioned(preflight: Run, tmp_path: Path) -> None:
    (tmp_path / "group_vars/balancers").mkdir(parents=True)
    (tmp_path / "group_vars/balancers/balancers.yml").write_text("docker_users: []\nloadbalancer_tls: none\n", "utf-8")
    hosts = GOOD_HOSTS.replace("loadbalancer:", "load_balancers:") + "    monitor: {hosts: {shop1: }}\n"
    done = preflight(hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stderr.split())
    assert "hosts.yml:4: load_balancers: is no group of ours; if its hosts are meant" in said
    assert "site_group_names: {loadbalancer: load_balancers}" in said
    assert "site_group_names: {monitoring: monitor}" in said
    assert "balancers.yml:2: loadbalancer_tls: has no effect, because the inventory has no group balancers" in said
    assert "docker_users" not in said


def test_what_others_read_as_well_is_the_same_for_all(preflight: Run, tmp_path: Path) -> None:
    hosts = GOOD_HOSTS.replace(
        "192.0.2.1}", "192.0.2.1, site_bot_port: '18789', site_ssh_port: 22, site_domain: a.test}"
    )
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/redis.yml").write_text(
        "site_redis_port: 7000\nsite_redis_password: hunter2hunter2xx\n", "utf-8"
    )
    done = preflight(hosts)
    assert done.returncode != 0
    for said in (
        "redis.yml:1: site_redis_port: app1 and redis1 have different ones, but it has to be the same for all hosts",
        "main.yml:2, group_vars/redis.yml:2: site_redis_password: app1 and redis1 have different ones",
        "hosts.yml:4: site_domain: app1 and lb1 have different ones",
    ):
        assert said.replace("group_vars/", f"{tmp_path}/group_vars/") in done.stdout, done.stdout
    assert "3 thing(s)" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_ports_are_ports_and_no_two_are_one(preflight: Run) -> None:
    hosts = GOOD_HOSTS.replace("192.0.2.12}", "192.0.2.12, ansible_port: ssh}")
    variables = f"{GOOD_VARS}site_https_port: 80\nsite_http_port: 80\nsite_bot_port: 9100\nsite_ssh_port: 0\n"
    variables += "site_redis_port: 80\nsite_prometheus_port: 9100\nnginx_status_port: 70000\n"
    variables += "site_former_http_ports: [9113, x]\nsite_former_https_ports: 8443\n"
    done = preflight(hosts, variables)
    assert done.returncode != 0
    for said in (
        "hosts.yml:8: ansible_port: 'ssh' is no port",
        "main.yml:7: site_https_port: site_http_port is 80 as well on lb1; give each its own",
        "main.yml:9: site_bot_port: site_node_exporter_port is 9100 as well on app1; give each its own",
        "main.yml:9: site_bot_port: site_node_exporter_port is 9100 as well on lb1; give each its own",
        "main.yml:10: site_ssh_port: 0 is no port, those are 1 to 65535",
        "main.yml:13: nginx_status_port: 70000 is no port",
        "main.yml:14: site_former_http_ports: site_nginx_exporter_port is 9113 as well on lb1; give each its own",
        "main.yml:14: site_former_http_ports: 'x' is no port",
        "main.yml:15: site_former_https_ports: must be a list",
    ):
        assert said in done.stdout, f"{said}\n{done.stdout}"
    assert "site_redis_port" not in done.stdout, "the balancer is another host"
    assert "site_prometheus_port" not in done.stdout, "there is none"


def test_addresses_of_people_and_proxies_are_addresses(preflight: Run) -> None:
    variables = f"""{GOOD_VARS}
site_admin_sources: [198.51.100.0/24, "2001:db8::1", office, 10.0.0.300, 10.0.0.0/33]
loadbalancer_trusted_proxies: [10.0.0.7/8, slb.example.com]
firewall_extra_services: [{{name: smtp, ports: [25], sources: [any, 10.0.0.1, mail]}}]
site_domain: https://bot.example.com/
"""
    done = preflight(GOOD_HOSTS, variables)
    assert done.returncode != 0
    for said in (
        *(f"main.yml:8: site_admin_sources: '{wrong}' is no" for wrong in ("office", "10.0.0.300", "10.0.0.0/33")),
        "main.yml:9: loadbalancer_trusted_proxies: 'slb.example.com' is no address or network",
        "main.yml:10: firewall_extra_services: 'mail' is no address or network",
        "main.yml:11: site_domain: 'https://bot.example.com/' is no name; write bot.example.com",
    ):
        assert said in done.stdout, f"{said}\n{done.stdout}"
    assert "6 thing(s)" in done.stdout


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::", "fe80::1", "224.0.0.1"])
def test_an_address_at_which_nobody_else_is_reached_is_refused_among_several(address: str) -> None:
    def found(*hosts: str) -> list[str]:
        known = {host: {"ansible_host": f"192.0.2.{number}"} for number, host in enumerate(hosts)}
        checks = site_preflight.Preflight(
            {}, known | {"bot1": {"ansible_host": address}}, {}, site_preflight.Sources([])
        )
        checks.check_addresses()
        return [finding.cure for finding in checks.findings]

    (cure,) = found("app1")
    assert f"at {address} no other host reaches bot1; write the address that the others use, as site_address" in cure
    assert not found()


@pytest.mark.parametrize(
    ("variables", "key", "said"),
    [
        ({"clawdbot_model_type": "chatgpt"}, "clawdbot_model_type", "'chatgpt' is no preset; choose one of echo, gpt"),
        ({"clawdbot_model_type": "glm"}, "clawdbot_model_api_key", "model 'glm' needs the key"),
        ({"site_serial": [1, "0"]}, "site_serial", "'0' is no number of nodes; write 1, or 25% of them"),
        ({"site_serial": ["125%"]}, "site_serial", "'125%' is no number"),
        ({"loadbalancer_tls": "acme", "site_domain": "203.0.113.9"}, "site_domain", "is an address; acme certifies"),
        (
            {"loadbalancer_tls": "acme", "loadbalancer_acme_email": "me"},
            "loadbalancer_acme_email",
            "'me' is no mailbox",
        ),
        ({"clawdbot_dingtalk_allow_users": ["a", 12345]}, "clawdbot_dingtalk_allow_users", "each has to be in quotes"),
        ({"clawdbot_feishu_verification_token": 7777}, "clawdbot_feishu_verification_token", ": has to be in quotes"),
        ({"clawdbot_dingtalk_robot_code": 7777}, "clawdbot_dingtalk_robot_code", ": has to be in quotes"),
        ({"site_member_weight": 0}, "site_member_weight", "0 is no share; write 1 or more, or site_member_down: true"),
        (
            {"clawdbot_dingtalk_card_calls": 2},
            "clawdbot_dingtalk_card_calls",
            "2 is no such number of calls; write 3 to",
        ),
        (
            {"clawdbot_rules": {"people": {"ou_1": {"may_write": "no"}}}},
            "clawdbot_rules",
            "people.ou_1: may_write: must be",
        ),
        ({"clawdbot_rules": {"models": {"big": {"type": "qwen"}}}}, "clawdbot_rules", "models.big.api_key: is missing"),
        ({"clawdbot_rules": {"everybody": {"bot_name": "小白"}}}, "", ""),
        ({"clawdbot_feishu_monthly_calls": -1}, "clawdbot_feishu_monthly_calls", "-1 is no such number of calls"),
        ({"clawdbot_dingtalk_card_calls": 10, "clawdbot_dingtalk_monthly_calls": 100000}, "", ""),
        ({"clawdbot_languages": ["zh", "fr"]}, "clawdbot_languages", "'fr' is no language of the bot; choose of en"),
        ({"clawdbot_languages": []}, "clawdbot_languages", "must be a list of languages; write [en, zh], or one of"),
        ({"clawdbot_languages": ["zh", "zh"]}, "clawdbot_languages", "names zh twice"),
        ({"clawdbot_chat_languages": {"oc_1": "en"}}, "clawdbot_chat_languages", "oc_1: must be a list of languages"),
        ({"clawdbot_chat_languages": {"oc_1": ["cn"]}}, "clawdbot_chat_languages", "oc_1: 'cn' is no language of"),
        ({"clawdbot_languages": ["en"], "clawdbot_chat_languages": {"oc_1": ["zh", "en"]}}, "", ""),
        ({"clawdbot_languages": ["zh"], "clawdbot_source": "/an/application/without/catalogues"}, "", ""),
        ({"clawdbot_model_type": "ollama", "site_serial": [1, 3, "25%", "100%"]}, "", ""),
    ],
)
def test_what_would_fail_half_way_is_refused_at_once(
    variables: dict[str, object], key: str, said: str, root: Path
) -> None:
    specs = site_preflight.load_specs(root / "roles")
    given = {"clawdbot_feishu_app_id": "cli_1", "site_domain": "bot.test", "loadbalancer_acme_email": "me@bot.test"}
    given |= {f"clawdbot_feishu_{name}": "t" for name in ("app_secret", "encryption_key", "verification_token")}
    checks = site_preflight.Preflight({}, {}, specs, site_preflight.Sources([]))
    for check in (checks.check_values, checks.check_certificate, checks.check_bot):
        check("bot1", given | variables)
    assert [finding.key for finding in checks.findings] == ([key] if key else [])
    assert said in str(*checks.findings)


def test_a_node_is_left_to_serve() -> None:
    down: dict[str, dict[str, object]] = {"app1": {"site_member_down": True}, "app2": {"site_member_backup": "yes"}}
    for more, keys in (({}, ["site_member_down"]), ({"app3": {"site_member_down": "no"}}, [])):
        nodes = down | more
        checks = site_preflight.Preflight({"clawdbot": list(nodes)}, nodes, {}, site_preflight.Sources([]))
        checks.check_members()
        assert [finding.key for finding in checks.findings] == keys


def test_what_cannot_be_worked_out_is_said_once(preflight: Run) -> None:
    variables = GOOD_VARS.replace("s1", '"{{ nowhere }}"') + 'clawdbot_dingtalk_aes_key: "{{ nowhere }}"\n'
    variables += 'site_proxy: "{{ nowhere }}"\nclawdbot_dingtalk_access_token: "{{ nowhere }}"\n'
    variables += 'clawdbot_dingtalk_app_key: "{{ nowhere }}"\nclawdbot_alerts_feishu_chat: "{{ nowhere }}"\n'
    done = preflight(GOOD_HOSTS, variables)
    assert done.returncode != 0
    assert len(set(re.findall(r"main.yml:\d+: (\w+): cannot be worked out", done.stdout))) == 6, done.stdout
    assert "8 thing(s)" in done.stdout, "and what DingTalk needs besides"


def test_a_secret_is_never_shown(preflight: Run) -> None:
    hidden = "hunter2-quote'"
    done = preflight(variables=GOOD_VARS.replace("s1", hidden) + "clawdbot_dingtalk_token: [hunter2]\n")
    assert done.returncode != 0
    assert "clawdbot_feishu_app_secret: holds a quote" in done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_an_intake_is_one_that_the_platform_has(preflight: Run) -> None:
    done = preflight(variables=f"{GOOD_VARS}clawdbot_dingtalk_intake: connection\nclawdbot_feishu_intake: stream\n")
    assert done.returncode != 0
    for expected in (
        "main.yml:7: clawdbot_dingtalk_intake: value of clawdbot_dingtalk_intake must be one of: http, stream",
        "main.yml:8: clawdbot_feishu_intake: value of clawdbot_feishu_intake must be one of: http, connection",
    ):
        assert expected in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["single", "cluster", "ha", "office", "dr/shanghai", "dr/beijing"])
def test_an_example_inventory_passes_once_its_secrets_are_filled_in(name: str, root: Path, tmp_path: Path) -> None:
    inventory = tmp_path / name
    shutil.copytree(root / "inventories" / name, inventory, ignore=shutil.ignore_patterns("secrets.yml"))
    command = ["ansible-playbook", "-i", str(inventory), "playbooks/preflight.yml"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)

    missing = run()
    assert missing.returncode != 0
    assert "secrets.yml: site_redis_password: is missing" in missing.stdout + missing.stderr

    said = missing.stdout + missing.stderr
    assert f"make secrets INVENTORY={inventory} writes the secrets that nobody else has to issue" in said

    subprocess.run(["ansible-playbook", "-i", str(inventory), "playbooks/secrets.yml"], cwd=root, check=True)
    secrets = inventory / "group_vars/all/secrets.yml"
    made = secrets.read_text("utf-8")
    secrets.write_text(re.sub(r"^#(clawdbot_\w+):", r"\1: change_me", made, flags=re.MULTILINE), "utf-8")
    untouched = run()
    assert untouched.returncode != 0
    assert "still holds the placeholder" in untouched.stdout + untouched.stderr

    secrets.write_text(re.sub(r"^#(clawdbot_\w+):", r"\1: a1a1a1", made, flags=re.MULTILINE), "utf-8")
    filled = run()
    assert filled.returncode == 0, filled.stdout + filled.stderr


def pair(folder: Path, name: str, days: int = 30) -> tuple[Path, Path]:
    """A certificate for a name that ends in so many days, and its key."""
    folder.mkdir(exist_ok=True)
    private = ec.generate_private_key(ec.SECP256R1())
    issuer, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(issuer, issuer, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(private, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[1].write_bytes(private.private_bytes(*form))
    return files


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        ("bot.test", "bot.test", ""),
        ("Bot.test", "Bot.test", ""),
        ("*.test", "*.test", ""),
        ("bot.test", "other.test", "is not the key of loadbalancer_tls_certificate"),
        ("other.test", "other.test", "is for other.test, not for site_domain bot.test"),
        ("", "bot.test", "holds no PEM certificate"),
        ("bot.test", "", "holds no private key"),
    ],
)
def test_a_provided_certificate_fits_the_name_and_its_key(
    tmp_path: Path, certificate: str, key: str, says: str
) -> None:
    texts = [
        pair(tmp_path, name)[number].read_text() if name else "nothing"
        for number, name in enumerate((certificate, key))
    ]
    if certificate and certificate == key:
        texts = [part.read_text() for part in pair(tmp_path, certificate)]
    found = site_preflight.certificate_faults(texts[0], texts[1], "bot.test")
    assert [fault for fault in found if fault] == ([] if not says else [next(f for f in found if f.startswith(says))])


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    certificate, key = (part.read_text() for part in pair(tmp_path, "bot.test", -1))
    assert "has expired" in site_preflight.certificate_faults(certificate, key, "bot.test")[0]


def test_certificates_are_looked_at_before_any_host(preflight: Run, tmp_path: Path) -> None:
    certificate, _ = pair(tmp_path / "pem", "bot.test")
    _, key = pair(tmp_path / "pem", "other.test")
    variables = GOOD_VARS + (
        f"site_domain: bot.test\nloadbalancer_tls: provided\n"
        f"loadbalancer_tls_certificate: {certificate}\nloadbalancer_tls_key: {key}\n"
    )
    done = preflight(variables=variables)
    assert done.returncode != 0
    assert "main.yml:10: loadbalancer_tls_key: is not the key of loadbalancer_tls_certificate" in " ".join(
        done.stdout.split()
    )


def test_acme_needs_a_name_and_an_address(preflight: Run) -> None:
    done = preflight(variables=GOOD_VARS + "loadbalancer_tls: acme\n")
    for key in ("site_domain", "loadbalancer_acme_email"):
        assert f"{key}: is missing; loadbalancer_tls: acme needs it" in " ".join(done.stdout.split())


def test_acme_is_for_one_balancer(preflight: Run) -> None:
    hosts = GOOD_HOSTS.replace("lb1: {ansible_host: 192.0.2.1}", BALANCERS)
    acme = "site_domain: bot.example.com\nloadbalancer_tls: acme\nloadbalancer_acme_email: ops@example.com\n"
    assert preflight(variables=GOOD_VARS + acme).returncode == 0
    assert "loadbalancer_tls: an authority asks one balancer only" in preflight(hosts, GOOD_VARS + acme).stdout


def test_the_former_name_of_a_variable_is_refused_with_the_new_one(preflight: Run) -> None:
    hosts = GOOD_HOSTS.replace("192.0.2.12}", "192.0.2.12, ssh_allow_groups: [ops]}")
    done = preflight(hosts, GOOD_VARS)
    assert done.returncode != 0
    said = "hosts.yml:8: ssh_allow_groups: has another name now: write ssh_group, one group instead of a list"
    assert said in done.stdout


def test_every_new_name_is_one_and_the_change_log_tells_of_it(root: Path) -> None:
    specs = site_preflight.load_specs(root / "roles")
    options = {name for spec in specs.values() for name in spec}
    log = (root / "CHANGELOG.md").read_text("utf-8")
    for former, cure in site_preflight.RENAMED.items():
        assert former not in options
        assert re.match(r"\w+", cure)[0] in options, cure  # type: ignore[index]
        assert f"`{former}`" in log, former


def test_the_version_has_one_home_and_the_change_log_is_of_it(root: Path) -> None:
    version = re.search(r"^version: (\S+)$", (root / "galaxy.yml").read_text("utf-8"), re.MULTILINE)
    assert version
    heads = re.findall(r"^## \[(.+?)\](.*)$", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == version[1]
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in heads[1:])


def sites(**changed: str) -> str:
    """Variables of one of two sites; what is changed to an empty text is missing."""
    certificate, key = link()
    told = {
        "site_sites": "{shanghai: {redis: 203.0.113.10, addresses: [203.0.113.10]}, "
        'beijing: {redis: "redis.example.com:7380", addresses: [198.51.100.0/28, "2001:db8::/64"]}}',
        "site_name": "shanghai",
        "site_active": "beijing",
        "site_link_certificate": json.dumps(certificate),
        "site_link_key": json.dumps(key),
    }
    return GOOD_VARS + "".join(f"{name}: {value}\n" for name, value in (told | changed).items() if value)


def test_two_sites_pass(preflight: Run) -> None:
    done = preflight(variables=sites())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"site_name": "tokyo"}, "main.yml:8: site_name: 'tokyo' is none of site_sites; write shanghai or beijing"),
        ({"site_active": ""}, "main.yml:7: site_active: '' is none of site_sites; write shanghai or beijing"),
        (
            {"site_sites": "{shanghai: {redis: 203.0.113.10, addresses: [203.0.113.10]}}"},
            "main.yml:7: site_sites: names shanghai; write this site and the one that stands by",
        ),
        (
            {"site_sites": "{shanghai: {redis: 203.0.113.10:port, addresses: []}, beijing: {}}"},
            "main.yml:7: site_sites: shanghai has no redis where the other site reaches it; write redis: 203.0.113.10",
        ),
        (
            {"site_sites": "{shanghai: {redis: 203.0.113.10, addresses: []}, beijing: {}}"},
            "main.yml:7: site_sites: shanghai has no addresses from which its hosts come; write addresses: [",
        ),
        ({"site_link_key": ""}, "secrets.yml: site_link_key: is missing; site_sites needs it"),
        (
            {"site_link_key": json.dumps(link.__wrapped__()[1])},
            "site_link_key: is not the key of site_link_certificate",
        ),
        ({"site_link_certificate": "nothing"}, "site_link_certificate: holds no PEM certificate"),
        ({"site_redis_host": "10.0.0.9"}, "site_redis_host: a site that stands by follows a Redis of this package"),
        ({"site_promote_hook": "move_name"}, "site_promote_hook: move_name is no program of this controller"),
    ],
)
def test_two_sites_know_each_other(changed: dict[str, str], said: str, preflight: Run) -> None:
    done = preflight(variables=sites(**changed))
    assert done.returncode != 0
    assert said in " ".join((done.stdout + done.stderr).split())


def test_a_site_that_stands_by_follows_one_redis(preflight: Run) -> None:
    three = "redis: {hosts: {192.0.2.21: , 192.0.2.22: , 192.0.2.23: }}"
    done = preflight(re.sub("redis: .*", three, GOOD_HOSTS), sites())
    assert done.returncode != 0
    assert "a site that stands by follows one Redis, and the group redis has 3 hosts; write one" in " ".join(
        done.stdout.split()
    )
