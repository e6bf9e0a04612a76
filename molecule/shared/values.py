"""Values of every role, two each, and what a host says of them that it can only say if it runs them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Value(NamedTuple):
    """A variable, what it is set to in turn, and what a command on a host says then."""

    variable: str
    values: tuple[Any, Any]
    host: str
    question: str
    answers: tuple[str, str]


OFFERED = (
    "ssh -vv -F none -p 2222 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    " nobody@127.0.0.1 true 2>&1 | sed -n 's/^debug2: ciphers stoc: //p' | tail -n 1"
)
LEASE = (
    "for unit in clawdbot clawdbot-worker; do sudo cat /proc/$(systemctl show -P MainPID $unit)/environ |"
    " tr '\\0' '\\n' | grep LEASE_SECONDS; done | sort -u"
)
#: A body of 1.5 megabytes.
POST = (
    "head -c 1500000 /dev/zero |"
    " curl -s -o /dev/null -w '%{http_code}' --data-binary @- http://127.0.0.1/api/feishu/callback"
)
GCM = ["aes256-gcm@openssh.com", "aes128-gcm@openssh.com"]
JOURNAL = "/etc/systemd/journald.conf.d/clawdbot.conf"
COPIED = "/var/lib/prometheus/node-exporter/clawdbot-backup.prom"
VALUES = [
    # Has to be older than the daemon that reads it.
    Value(
        "base_journal_age",
        ("10day", "11day"),
        "lb1",
        f'find {JOURNAL} -newermt "$(systemctl show -P ActiveEnterTimestamp systemd-journald)"',
        ("", ""),
    ),
    Value(
        "firewall_extra_services",
        (
            [{"name": "extra", "ports": [7001], "sources": ["any"]}],
            [{"name": "extra", "ports": [7002], "sources": ["any"]}],
        ),
        "app1",
        "sudo nft list table inet clawdbot | grep -o 'dport 700[12]' | sort -u",
        ("dport 7001", "dport 7002"),
    ),
    Value("ssh_ciphers", (GCM, GCM[:1]), "app1", OFFERED, (",".join(GCM), GCM[0])),
    Value("fail2ban_ban_time", ("11m", "12m"), "lb1", "sudo fail2ban-client get sshd bantime", ("660", "720")),
    Value(
        "redis_maxmemory",
        ("200mb", "201mb"),
        "redis1",
        "sudo clawdbot-redis config get maxmemory | tail -n 1",
        (f"{200 << 20}", f"{201 << 20}"),
    ),
    *(
        Value(
            "clawdbot_lease_seconds",
            (31, 32),
            node,
            LEASE,
            ("CLAWDBOT_LEASE_SECONDS=31", "CLAWDBOT_LEASE_SECONDS=32"),
        )
        for node in ("app1", "app2")
    ),
    Value("loadbalancer_max_body", ("1m", "2m"), "lb1", POST, ("413", "401")),
    Value(
        "site_node_exporter_port",
        (9101, 9102),
        "app2",
        "ss -Hltn 'sport >= 9100 and sport <= 9102' | grep -o '910[0-2]' | sort -u",
        ("9101", "9102"),
    ),
    Value(
        "monitoring_retention_days",
        (31, 32),
        "lb1",
        "curl -s 127.0.0.1:9090/api/v1/status/flags | grep -o 'retention.time\":\"[0-9]*d'",
        ('retention.time":"31d', 'retention.time":"32d'),
    ),
    Value(
        "monitoring_repeat_interval",
        ("5h", "6h"),
        "lb1",
        "curl -s 127.0.0.1:9093/api/v2/status | grep -o 'repeat_interval: [56]h' | sort -u",
        ("repeat_interval: 5h", "repeat_interval: 6h"),
    ),
    Value(
        "backup_at",
        ("04:00", "05:00"),
        "redis1",
        "systemctl show -P TimersCalendar clawdbot-backup.timer | grep -o '0[345]:00' | head -n 1",
        ("04:00", "05:00"),
    ),
    # A copy with these settings has been taken.
    Value("backup_keep_daily", (8, 9), "redis1", f"sudo find /etc/clawdbot-backup/settings -newer {COPIED}", ("", "")),
]
