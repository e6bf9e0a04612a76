"""The units of all roles: what they are shut off from, as systemd counts it, and how they live and die."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from rendering import render
from test_units import REGISTERED

ROOT = Path(__file__).resolve().parents[1]
SERVERS = {"r1": "10.0.0.1", "r2": "10.0.0.2"}
#: Each service with what is not shut off, and need not be.
#: They talk to the network and to local sockets, and lie in the host's file system.
OPEN = {"RootDirectoryOrRootImage", "PrivateMounts", "PrivateNetwork", "DeviceAllow", "IPAddressDeny"} | {
    f"RestrictAddressFamilies_{family}" for family in ("AF_UNIX", "AF_INET_INET6")
}
#: It reads what is others'.
READS = {
    "UserOrDynamicUser",
    "CapabilityBoundingSet_CAP_DAC_FOWNER_IPC_OWNER",
    "ProtectHome",
    "PrivateUsers",
    "SystemCallFilter_resources",
}
#: Debian's own unit of Redis, which Sentinel's is like, filters no system calls.
LIKE_REDIS = {
    *(
        f"SystemCallFilter_{calls}"
        for calls in ("clock", "cpu_emulation", "debug", "module", "mount", "obsolete", "privileged")
    ),
    *(f"SystemCallFilter_{calls}" for calls in ("raw_io", "reboot", "resources", "swap")),
    *(f"RestrictNamespaces_{kind}" for kind in ("user", "pid", "net", "uts", "mnt", "cgroup", "ipc")),
    *(
        "RemoveIPC",
        "ProtectClock",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "SystemCallArchitectures",
        "MemoryDenyWriteExecute",
    ),
    *(
        "RestrictSUIDSGID",
        "ProtectHostname",
        "LockPersonality",
        "RestrictRealtime",
        "ProtectProc",
        "ProcSubset",
        "PrivateUsers",
        "UMask",
    ),
}
SANDBOXES = {
    "clawdbot clawdbot.service": OPEN,
    "clawdbot clawdbot-worker.service": OPEN,
    "clawdbot clawdbot-receiver.service": OPEN,
    "backup clawdbot-backup.service": OPEN | READS,
    "redis clawdbot-sentinel.service": (OPEN | LIKE_REDIS) - {"DeviceAllow"},
}
GIVEN: dict[str, dict[str, Any]] = {
    "clawdbot": REGISTERED,
    "backup": {"backup_repository": "/var/backups/copies"},
    "redis": {"redis_former_ports": [6380], "redis_addresses": ["127.0.0.1", "fd00::1"]},
}
HOME = "/opt/clawdbot"
BOT = {
    "User": "clawdbot",
    "Group": "clawdbot",
    "WorkingDirectory": f"{HOME}/current",
    "EnvironmentFile": [f"{HOME}/config/service.env", f"{HOME}/config/clawdbot.env"],
    "Restart": "always",
    "RestartSec": "1",
    "KillMode": "mixed",
    "RuntimeDirectory": "clawdbot clawdbot/metrics",
    "RuntimeDirectoryMode": "0750",
    "RuntimeDirectoryPreserve": "yes",
    "SystemCallErrorNumber": "EPERM",
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
}
SPOOL = {"StateDirectory": "clawdbot-spool", "StateDirectoryMode": "0700"}
REDIS, RUN = "/usr/bin/redis-server", "--supervised systemd --daemonize no"
NETWORK = "network-online.target"
PATIENT = {"Restart": "always", "RestartSec": "500ms"}
#: What each unit says besides, by section.
LIVES: dict[str, dict[str, dict[str, Any]]] = {
    "clawdbot clawdbot.service": {
        "Unit": {
            "Requires": "clawdbot.socket",
            "After": f"clawdbot.socket {NETWORK} rsyslog.service",
            "Wants": NETWORK,
        },
        "Service": BOT
        | SPOOL
        | {
            "Type": "notify",
            "ExecStart": f"{HOME}/current/venv/bin/gunicorn --config gunicorn.conf.py app:app",
            "TimeoutStopSec": "40",
        },
        "Install": {"WantedBy": "multi-user.target"},
    },
    "clawdbot clawdbot-worker.service": {
        "Unit": {"After": f"{NETWORK} rsyslog.service", "Wants": NETWORK},
        "Service": BOT
        | {
            "ExecStart": f"{HOME}/current/venv/bin/python -m clawdbot worker",
            "TimeoutStopSec": "90",
            "RestartPreventExitStatus": "78",
        },
        "Install": {"WantedBy": "multi-user.target"},
    },
    "clawdbot clawdbot-receiver.service": {
        "Unit": {"After": f"{NETWORK} rsyslog.service", "Wants": NETWORK},
        "Service": BOT
        | SPOOL
        | {
            "Type": "notify",
            "ExecStart": f"{HOME}/current/venv/bin/python -m clawdbot receiver",
            "TimeoutStopSec": "40",
            "RestartPreventExitStatus": "78",
        },
        "Install": {"WantedBy": "multi-user.target"},
    },
    "clawdbot clawdbot.socket": {
        "Socket": {"ListenStream": "18789", "Backlog": "2048"},
        "Install": {"WantedBy": "sockets.target"},
    },
    "backup clawdbot-backup.service": {
        "Unit": {"After": f"{NETWORK} redis-server.service", "Wants": NETWORK},
        "Service": {
            "Type": "oneshot",
            "ExecStart": "/usr/local/sbin/clawdbot-backup %i",
            "Nice": "10",
            "IOSchedulingClass": "idle",
            "TimeoutStartSec": "2h",
            "CacheDirectory": "clawdbot-backup",
            "Environment": "RESTIC_CACHE_DIR=/var/cache/clawdbot-backup",
            "CapabilityBoundingSet": "CAP_DAC_READ_SEARCH",
            "ProtectHome": "read-only",
            "ReadWritePaths": "/var/lib/clawdbot-backup /var/lib/prometheus/node-exporter -/var/backups/copies",
            "SystemCallFilter": [
                "@system-service",
                "~@privileged @resources",
                "ioprio_set setpriority sched_setaffinity",
            ],
            "SystemCallErrorNumber": "EPERM",
        },
    },
    "backup clawdbot-backup.timer": {
        "Timer": {"OnCalendar": "03:00", "RandomizedDelaySec": "30min", "Persistent": "true"},
        "Install": {"WantedBy": "timers.target"},
    },
    "backup clawdbot-backup@often.timer": {
        "Timer": {"OnActiveSec": "15min", "OnUnitActiveSec": "15min", "AccuracySec": "10s"},
        "Install": {"WantedBy": "timers.target"},
    },
    "backup clawdbot-backup@drill.timer": {
        "Timer": {"OnCalendar": "Sun 05:00", "RandomizedDelaySec": "2h", "Persistent": "true"},
        "Install": {"WantedBy": "timers.target"},
    },
    "redis clawdbot-sentinel.service": {
        "Unit": {"After": NETWORK, "Wants": NETWORK, "StartLimitIntervalSec": "0"},
        "Service": PATIENT
        | {
            "Type": "notify",
            "User": "redis",
            "Group": "redis",
            "StateDirectory": "clawdbot-sentinel",
            "StateDirectoryMode": "0750",
            "ExecStartPre": "+/usr/local/sbin/clawdbot-sentinel-start",
            "ExecStart": f"{REDIS} /var/lib/clawdbot-sentinel/sentinel.conf --sentinel {RUN}",
            "CapabilityBoundingSet": "",
        },
        "Install": {"WantedBy": "multi-user.target"},
    },
    "redis redis-server.conf": {
        "Unit": {"After": NETWORK, "Wants": NETWORK, "StartLimitIntervalSec": "0"},
        "Service": PATIENT
        | {
            "TimeoutStopSec": "30",
            "TimeoutStartSec": "600",
            "ExecStartPre": "+/usr/local/sbin/clawdbot-redis-adopt /var/lib/redis",
            "ExecStart": [
                "",
                f"{REDIS} /etc/redis/redis.conf --include /etc/redis/clawdbot.conf {RUN}",
            ],
        },
    },
    "redis clawdbot-redis-former.socket": {
        "Socket": {"ListenStream": ["127.0.0.1:6380", "[fd00::1]:6380"], "FreeBind": "yes"},
        "Install": {"WantedBy": "sockets.target"},
    },
    "redis clawdbot-redis-former.service": {
        "Unit": {"Requires": "clawdbot-redis-former.socket", "After": "clawdbot-redis-former.socket"},
        "Service": {"ExecStart": "/usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:6379", "DynamicUser": "yes"},
    },
    "nginx unit.conf": {
        "Unit": {"StartLimitIntervalSec": "0"},
        "Service": PATIENT
        | dict.fromkeys(
            ("NoNewPrivileges", "PrivateDevices", "PrivateTmp", "ProtectControlGroups", "ProtectHome"), "true"
        )
        | dict.fromkeys(
            ("ProtectKernelModules", "ProtectKernelTunables", "RestrictNamespaces", "RestrictSUIDSGID"), "true"
        )
        | {"ProtectSystem": "full", "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX"},
    },
    "keepalived unit.conf": {
        "Unit": {"After": "nginx.service", "StartLimitIntervalSec": "0"},
        "Service": PATIENT
        | {
            "TimeoutStopSec": "15",
            "ExecStop": "/usr/local/sbin/clawdbot-front-leave",
            "ExecStopPost": "/usr/local/sbin/clawdbot-front-leave open",
        },
    },
    "exporters wait-for-address.conf": {
        "Unit": {"Wants": NETWORK, "After": NETWORK, "StartLimitIntervalSec": "0"},
        "Service": {"RestartSec": "3s"},
    },
}


def text(unit: str, **variables: Any) -> str:
    """A unit as it lies on a host."""
    role, name = unit.split(" ", 1)
    file = ROOT / "roles" / role / "files" / name
    return file.read_text("utf-8") if file.exists() else render(role, name, **GIVEN.get(role, {}) | variables)


def parsed(said: str) -> dict[str, dict[str, Any]]:
    """Options of each section; one that stands there more than once has a list."""
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    section = ""
    for line in said.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith("#"):
            option, _, value = line.partition("=")
            before = found[section].get(option)
            found[section][option] = (
                value if before is None else [*(before if isinstance(before, list) else [before]), value]
            )
    return found


@pytest.mark.parametrize("unit", SANDBOXES)
def test_what_is_not_shut_off_has_a_reason(unit: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd here; the scenarios start them")
    file = tmp_path / unit.split()[1]
    file.write_text(text(unit), "utf-8")
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", "--json=short", str(file)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = {check["json_field"] for check in said if not check["set"] and check["exposure"]}
    assert found == SANDBOXES[unit]


@pytest.mark.parametrize("unit", LIVES)
def test_lives(unit: str) -> None:
    found = parsed(text(unit))
    for section, meant in LIVES[unit].items():
        assert {option: found[section].get(option) for option in meant} == meant


def test_redis_of_several_asks_who_leads() -> None:
    alone, several, linked = (
        parsed(text("redis redis-server.conf", **more))["Service"]
        for more in ({}, {"redis_servers": SERVERS}, {"redis_link": {"site": "a"}})
    )
    assert several["ExecStart"][1].split()[1] == "/var/lib/redis/clawdbot-main.conf"
    assert several["ExecStartPre"] == ["+/usr/local/sbin/clawdbot-redis-start", alone["ExecStartPre"]]
    assert "grep -qs ^replicaof /etc/redis/clawdbot-link.conf || rm -f" in linked["ExecStartPre"][1]


@pytest.mark.parametrize("service", ["clawdbot", "clawdbot-worker", "clawdbot-receiver"])
def test_a_container_goes_with_its_service(service: str) -> None:
    found = parsed(text(f"clawdbot {service}.service", clawdbot_runtime="docker").replace("\\\n", ""))
    unit, said = found["Unit"], found["Service"]
    assert "docker.service" in unit["Requires"].split()
    assert "docker.service" in unit["After"].split()
    assert unit["StartLimitIntervalSec"] == "0"
    assert "User" not in said
    assert (said["Group"], said["Environment"]) == ("clawdbot", "DOCKER_CONFIG=/nonexistent")
    remove = f"docker ps --all --quiet --filter name=^{service}$$ | xargs --no-run-if-empty docker rm --force"
    assert remove in said["ExecStartPre"]
    assert said["ExecStopPost"] == said["ExecStartPre"]
    options = said["ExecStart"].split()
    for option in ("--rm", "--read-only", "no-new-privileges", f"--name {service}", "--user 990:990", "--cap-drop ALL"):
        assert f" {option} " in " ".join(options) + " "
    assert "--pull never" in " ".join(options)
    assert "clawdbot:r1" in options
    assert "MODEL_API_KEY" in options
    if service == "clawdbot":
        assert (said["NotifyAccess"], said["RuntimeDirectory"], said["RuntimeDirectoryMode"]) == (
            "all",
            "clawdbot-listener",
            "0750",
        )
        mount = "type=bind,src=/run/clawdbot-listener,dst=/run/clawdbot-listener,readonly"
        assert mount in options
        assert "CLAWDBOT_LISTENER=/run/clawdbot-listener/socket" in options
