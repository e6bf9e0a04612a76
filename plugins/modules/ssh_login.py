"""What action ``ssh_login`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_login
short_description: Finds the SSH port of a host by logging in as Ansible itself does
description:
  - Logs in on the first port that works and returns what the host says about that login.
options:
  ports: {description: "Ports to try, in this order.", type: list, elements: int, required: true}
  given:
    description:
      - Those of O(ports) that the inventory names for this very host. If there are any, another port is believed to be
        this host's only if the machine behind it has been set up by the role ssh.
    type: list
    elements: int
    default: []
  wanted:
    description: Port sshd shall listen on; the result says who else holds it.
    type: int
    required: true
  fresh:
    description: Open a new connection even if a persistent one to that port exists.
    type: bool
    default: false
  take_over: {description: Stop the safety timer that a run which died has left behind., type: bool, default: false}
  timeout: {description: Seconds to wait for an answer on each port., type: int}
  silent:
    description:
      - What a host is that answers on none of them. With V(unreachable) the run goes on without it, with V(ok) the
        result has no C(login).
    type: str
    choices: [failed, unreachable, ok]
    default: failed
author: [clawdbot-ops]
"""

RETURN = r"""
login:
  description:
    - C(port), C(client) (the controller's address as the host sees it), C(server) (the host's own address at which the
      login arrived), C(user), C(method) and C(key) (how sshd accepted them, and the fingerprint; empty is unknown).
    - C(version) of OpenSSH, C(taken) (the program other than sshd that listens on the wanted port), C(listens) (the
      port on which sshd got this login, another one than C(port) where that is forwarded), C(addresses) (the interface
      of each address but loopback's), C(boot) (identity of this boot), C(managed) (whether the role has set it up).
  type: dict
  returned: success
"""
