#!/usr/bin/env python3
"""What the load balancer costs, and how long a large inventory takes.

Prints requests a second of gunicorn directly, through Nginx without and with connections kept open, all in one
throw-away container on the same cores: the ratio counts, not the figures, and on a busy machine neither does. Then
checks an inventory of 500 nodes, renders the balancer's configuration for it, and lets Nginx test and load that. Exit
status 1 if check and rendering take 10 s or more.

    .venv/bin/python bench/balance.py
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTAINER = "clawdbot-bench-balance"
IMAGE = "clawdbot-sandbox:debian13"
NODES = 500
WANTED_SECONDS = 10.0

PLAY = f"""
- hosts: loadbalancer
  connection: local
  gather_facts: false
  vars_files: [{ROOT}/roles/loadbalancer/defaults/main.yml, {ROOT}/roles/loadbalancer/vars/main.yml, inputs.yml]
  tasks:
    - template:
        src: "{ROOT}/roles/loadbalancer/templates/{{{{ item }}}}.j2"
        dest: "{{{{ playbook_dir }}}}/{{{{ item | basename }}}}"
      loop: [clawdbot_members.conf, conf.d/clawdbot.conf]
"""

INVENTORY = """
all:
  children:
    loadbalancer: {{hosts: {{lb1: {{ansible_host: 192.0.2.1}}}}}}
    redis: {{hosts: {{redis1: {{ansible_host: 192.0.2.2}}}}}}
    clawdbot:
      hosts:
{nodes}
  vars:
    site_redis_password: {secret}
    clawdbot_feishu_app_id: cli_1
    clawdbot_feishu_app_secret: {secret}
    clawdbot_feishu_encryption_key: {secret}
    clawdbot_feishu_verification_token: {secret}
"""

INPUTS = """
loadbalancer_members: "{{ groups['clawdbot'] | site_members(hostvars, 18789) }}"
loadbalancer_tls: "off"
loadbalancer_rate: 1000000
"""

NGINX = """
user www-data;
worker_processes auto;
events { worker_connections 4096; }
http { access_log off; include /bench/*/clawdbot.conf; }
"""

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "20")])
    return [b'{"status":"healthy"}']
"""


def run(*command: str | Path) -> str:
    """Output of a command; its messages are shown when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)  # noqa: S603  # own constants
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def inside(script: str) -> str:
    """Output of a shell script in the container."""
    return run("docker", "exec", CONTAINER, "sh", "-euc", script)


def inventory(addresses: list[str], folder: Path) -> Path:
    """Writes an inventory with nodes at these addresses into a new folder."""
    folder.mkdir()
    nodes = "\n".join(f"        node{n}: {{ansible_host: {address}}}" for n, address in enumerate(addresses))
    file = folder / "inventory.yml"
    file.write_text(INVENTORY.format(nodes=nodes, secret=secrets.token_hex(16)))
    return file


def play(hosts: Path, playbook: Path) -> float:
    """Runs a playbook; returns the seconds it took."""
    start = time.monotonic()
    run(Path(sys.executable).with_name("ansible-playbook"), "-i", hosts, playbook)
    return time.monotonic() - start


def render(hosts: Path) -> float:
    """Renders the balancer's configuration beside an inventory; returns the seconds it took."""
    playbook = hosts.with_name("render.yml")
    playbook.write_text(PLAY)
    hosts.with_name("inputs.yml").write_text(INPUTS)
    return play(hosts, playbook)


@contextmanager
def container() -> Iterator[None]:
    """A container with gunicorn, Nginx and wrk, removed at the end."""
    run("docker", "rm", "--force", "--volumes", CONTAINER)
    run("docker", "run", "--detach", "--name", CONTAINER, IMAGE, "sleep", "infinity")
    try:
        inside(
            "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d;"
            "chmod +x /usr/sbin/policy-rc.d; apt-get update -qq;"
            "apt-get install -y -qq --no-install-recommends gunicorn nginx wrk; mkdir /bench"
        )
        yield
    finally:
        run("docker", "rm", "--force", CONTAINER)


def serve(rendered: Path, keepalive: bool) -> None:
    """Starts Nginx with the rendered configuration, in the second case as it is."""
    site = (rendered / "clawdbot.conf").read_text()
    if not keepalive:
        site = re.sub(r"^ +keepalive(_timeout)? .*\n", "", site, flags=re.MULTILINE)
    (rendered / "site.conf").write_text(site)
    run("docker", "cp", rendered / "clawdbot_members.conf", f"{CONTAINER}:/etc/nginx/clawdbot_members.conf")
    inside("mkdir -p /bench/site; nginx -s stop 2>/dev/null || true; sleep 0.3")  # it may not run yet
    run("docker", "cp", rendered / "site.conf", f"{CONTAINER}:/bench/site/clawdbot.conf")
    inside(
        f"cat > /bench/nginx.conf <<'END'\n{NGINX}\nEND\nnginx -q -t -c /bench/nginx.conf; nginx -c /bench/nginx.conf"
    )


def requests_a_second(port: int, seconds: int) -> float:
    """Rate of successful answers under 16 connections."""
    said = inside(f"wrk --connections 16 --threads 1 --duration {seconds}s http://127.0.0.1:{port}/health")
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"The load failed:\n{said}")
    match = re.search(r"Requests/sec: +([\d.]+)", said)
    assert match, said  # noqa: S101  # wrk always prints it
    return float(match[1])


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="What the load balancer costs, and how long a large inventory takes.")
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind (default %(default)s)")
    arguments = parser.parse_args()
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    run(ROOT / "sandbox/images.sh")

    with tempfile.TemporaryDirectory() as temporary, container():
        one, many = Path(temporary, "one"), Path(temporary, "many")
        render(inventory(["127.0.0.1"], one))
        inside(
            f"cat > /bench/app.py <<'END'\n{APP}\nEND\ncd /bench;"
            "gunicorn --daemon --bind 127.0.0.1:18789 --worker-class gthread"
            " --workers 2 --threads 8 --keep-alive 75 app:app;"
            "timeout 30 bash -c 'until : 2>/dev/null </dev/tcp/127.0.0.1/18789; do sleep 0.1; done'"
        )
        rates: dict[str, list[float]] = {"direct": [], "through Nginx, no keepalive": [], "through Nginx": []}
        for _ in range(arguments.rounds):
            rates["direct"].append(requests_a_second(18789, arguments.seconds))
            for name, keepalive in (("through Nginx, no keepalive", False), ("through Nginx", True)):
                serve(one, keepalive)
                rates[name].append(requests_a_second(80, arguments.seconds))
        medians = {name: statistics.median(measured) for name, measured in rates.items()}
        for name, measured in rates.items():
            rounds = " ".join(f"{rate:.0f}" for rate in measured)
            print(f"{name:30} {medians[name]:7.0f} requests/s   (rounds: {rounds})")
        gain = medians["through Nginx"] / medians["through Nginx, no keepalive"]
        print(f"{'gain by keepalive':30} {100 * (gain - 1):6.0f} %")

        hosts = inventory([f"10.{n // 62500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(NODES)], many)
        checked, rendered = play(hosts, ROOT / "playbooks/preflight.yml"), render(hosts)
        serve(many, keepalive=True)
        print(f"{f'preflight of {NODES} nodes':30} {checked:7.1f} s")
        print(f"{f'configuration of {NODES} nodes':30} {rendered:7.1f} s")
    return 0 if checked + rendered < WANTED_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
