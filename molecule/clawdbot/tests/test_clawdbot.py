"""The bot on one node: it serves, keeps its secrets, loses no log line and comes back after a kill.

Scenario `clawdbot-docker` runs these tests as well: the promises do not depend on what the services run.
"""

import json
import time
from collections.abc import Iterator

import pytest
from bot import converge, nobody_refused, wait_until_ready
from testinfra.host import Host

HOME = "/opt/clawdbot"
LINES = 10_000

# Writes numbered lines through the bot's own handler as the bot's own user, at about 1000 a second.
WRITER = f"""
import logging, time
from clawdbot.logs import SocketLineHandler
handler = SocketLineHandler("/run/clawdbot-log/socket", "clawdbot-model_api")
handler.setFormatter(logging.Formatter("%(message)s"))
for number in range({LINES}):
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "rotation %d" % number, None, None))
    if number % 50 == 0:
        time.sleep(0.05)
"""

# A DingTalk that only the network's proxy reaches by its name, and that writes down what it is sent.
DINGTALK = """
import http.server, json
class DingTalk(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with open("/run/dingtalk.log", "a") as log:
            print(json.dumps([self.headers["Host"], body]), file=log)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{\\"errcode\\":0}')
http.server.HTTPServer(("127.0.0.1", 3128), DingTalk).serve_forever()
"""

# Somebody writes to the robot, with DingTalk's signature.
WRITE = """
import base64, hashlib, hmac, json, sys, time, urllib.request, uuid
sender, words = sys.argv[1:]
now, secret = str(int(time.time() * 1000)), "scenario-app-secret"
sign = base64.b64encode(hmac.new(secret.encode(), f"{now}\\n{secret}".encode(), hashlib.sha256).digest()).decode()
body = {
    "msgtype": "text", "text": {"content": words}, "msgId": uuid.uuid4().hex, "createAt": int(now),
    "conversationType": "1", "conversationId": f"cid-{sender}", "robotCode": "dingscenario",
    "senderId": sender, "senderStaffId": sender, "senderNick": sender,
    "sessionWebhook": "http://dingtalk.test/robot/sendBySession?session=s",
    "sessionWebhookExpiredTime": int(now) + 600000,
}
headers = {"timestamp": now, "sign": sign, "Content-Type": "application/json"}
url = "http://127.0.0.1:18789/api/dingtalk/callback"
print(urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).status)
"""


def get(host: Host, path: str) -> str:
    """Body of an answer of the bot."""
    program = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:18789{path}', timeout=5).read().decode())"
    return str(host.check_output(f'python3 -c "{program}"')).strip()


def test_health_is_exactly_what_is_promised(host: Host) -> None:
    assert get(host, "/health") == '{"status":"healthy"}'


def test_both_platforms_are_on(host: Host) -> None:
    assert json.loads(get(host, "/ready"))["platforms"] == ["dingtalk", "feishu"]


@pytest.mark.every_host
def test_ready_knows_redis(host: Host) -> None:
    assert json.loads(get(host, "/ready"))["status"] == "ready"
    host.check_output("sudo systemctl stop redis-server")
    try:
        assert host.run("python3 -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:18789/ready')\"").rc != 0
        assert get(host, "/health") == '{"status":"healthy"}'
    finally:
        host.check_output("sudo systemctl start redis-server")
    wait_until_ready(host)


def test_the_operators_shell_has_the_models_key(host: Host) -> None:
    shell = "sudo --login bash -ic 'echo $MODEL_API_KEY $MODEL_API_SECRET' 2>/dev/null"
    assert host.check_output(shell).strip() == "sk-scenario scenario-half"


@pytest.mark.parametrize("name", ["clawdbot.env", "dingtalk.yaml", "feishu.js"])
def test_secrets_are_for_one_reader(host: Host, name: str) -> None:
    assert host.run(f"cat {HOME}/config/{name}").rc != 0, "an ordinary user can read it"
    assert host.run(f"sudo cat {HOME}/config/{name}").rc == 0


def test_no_secret_in_a_process_list_or_a_log(host: Host) -> None:
    seen = host.check_output(
        f"sudo ps axww -o args; sudo cat {HOME}/logs/*.log; sudo journalctl --no-pager -u 'clawdbot*'"
    )
    for secret in ("sk-scenario", "scenario-half", "scenario-app-secret", "scenario-token", "scenario-encryption-key"):
        assert secret not in seen


def test_the_command_line_reads_the_same_configuration(host: Host) -> None:
    assert "Traceback" not in host.check_output("sudo clawdbot queue")


@pytest.fixture
def dingtalk(host: Host) -> Iterator[None]:
    """DingTalk is there."""
    host.check_output("sudo systemd-run --quiet --unit=dingtalk python3 -c %s", DINGTALK)
    yield
    host.check_output("sudo systemctl stop dingtalk.service; sudo rm -f /run/dingtalk.log")


def reply(host: Host, sender: str, words: str) -> str:
    """What somebody is answered, as DingTalk was handed it."""
    host.check_output("sudo rm -f /run/dingtalk.log")
    host.check_output("python3 -c %s %s %s", WRITE, sender, words)
    host.check_output("timeout 20 sh -c %s", "until [ -s /run/dingtalk.log ]; do sleep 0.2; done")
    name, body = json.loads(host.check_output("sudo tail -n 1 /run/dingtalk.log"))
    assert name == "dingtalk.test"
    return str(body)


def test_packages_came_through_the_proxy_as_there_is_no_other_way(host: Host) -> None:
    for name in ("deb.debian.org", "pypi.org"):
        for port in (80, 443):
            program = f"import socket; socket.create_connection(('{name}', {port}), 5)"
            assert host.run("sudo python3 -c %s", program).rc != 0, "the network is not closed"
    requests = host.check_output("cat /var/log/closed-proxy.log").splitlines()
    assert [line for line in requests if "://deb.debian.org" in line]
    assert not [line for line in requests if line.startswith("407")]
    built = host.run('test -d /opt/clawdbot/venvs -a -n "$(ls /opt/clawdbot/venvs)"').rc == 0
    if built or host.check_output("sudo docker image ls --quiet clawdbot-base 2>/dev/null"):
        assert [line for line in requests if line.startswith("index GET /simple/")]
        assert [line for line in requests if line.startswith(" CONNECT files.pythonhosted.org")]


def test_the_networks_password_is_in_no_process_list_and_no_log_and_readable_by_nobody_else(host: Host) -> None:
    assert host.check_output("sudo cat /run/closed-watch") == ""
    # Whoever looks has to be able to find it.
    show = 'sh -c "sleep 0.5; true" "$(head -c 24 /opt/closed_network/password)"'
    host.check_output("sudo sh -c %s", show)
    assert "sleep 0.5" in host.check_output("sudo cat /run/closed-watch")
    host.check_output("sudo truncate --size=0 /run/closed-watch")

    keep = "umask 077; head -c 24 /opt/closed_network/password >/run/needle"
    search = "xargs --null grep --text --files-with-matches --fixed-strings --file /run/needle"
    places = "/etc /home /opt /root /run /tmp /usr/local /var/backups /var/cache /var/lib /var/log"
    find = f"setpriv --reuid=nobody --clear-groups find {places} -type f -readable -print0 2>/dev/null"
    with host.sudo():
        host.check_output(f"sh -c '{keep}'")
        assert host.check_output(f"printf '/run/needle\\0' | {search}") == "/run/needle"
        # xargs and grep fail where nothing is found.
        assert host.run(f"{find} | {search}").stdout == ""
        assert host.run(f"find /var/log -type f -print0 | {search}").stdout == ""
        assert host.run("journalctl --no-pager --output=export | grep --text --file /run/needle").stdout == ""
        host.check_output("rm /run/needle")


def test_apt_goes_on_for_those_who_may_not_read_the_password(host: Host) -> None:
    assert host.run("cat /etc/apt/auth.conf.d/clawdbot.conf").rc != 0
    assert "Candidate:" in host.check_output("apt-cache policy hello")


@pytest.mark.usefixtures("dingtalk")
def test_the_bots_own_calls_go_through_the_proxy_that_it_is_given(host: Host) -> None:
    assert "echo: hello" in reply(host, "alice", "hello")
    for unit in ("clawdbot", "clawdbot-worker"):
        if host.run(f"sudo docker inspect {unit}").rc == 0:
            environment = host.check_output(f"sudo docker exec {unit} env")
        else:
            process = host.check_output(f"systemctl show -P MainPID {unit}")
            environment = host.check_output(f"sudo cat /proc/{process}/environ | tr '\\0' '\\n'")
        assert 'NOTE=it\'s "so"' in environment.splitlines()


@pytest.mark.usefixtures("dingtalk")
def test_a_list_of_those_who_may_write_takes_effect_at_the_next_run_and_stays(host: Host) -> None:
    only_bob = "-e" + json.dumps({"clawdbot_dingtalk_allow_users": ["bob"]})
    assert "hello" in reply(host, "alice", "hello")
    said = converge(host, "-vvv", only_bob)
    password = host.check_output("sudo head -c 24 /opt/closed_network/password")
    assert len(password) == 24
    assert password not in said, "the network's password is in the output of a run"
    assert "hello" not in reply(host, "alice", "hello")
    assert "hello" in reply(host, "bob", "hello")
    assert "changed=0" in converge(host, only_bob)
    assert "hello" not in reply(host, "alice", "hello")
    converge(host)
    assert "hello" in reply(host, "alice", "hello")


@pytest.mark.usefixtures("dingtalk")
def test_a_message_outlives_that_redis_is_away_and_a_kill_meanwhile(host: Host) -> None:
    host.check_output("sudo systemctl stop redis-server")
    try:
        assert "200" in host.check_output("python3 -c %s carol 'while Redis is away'", WRITE)
        assert "on this node's disk:   1" in host.run("sudo clawdbot queue").stdout
        assert host.check_output("sudo stat -c '%a %U' /var/lib/clawdbot-spool") == "700 clawdbot"
        host.check_output("sudo systemctl kill --signal=KILL clawdbot.service")
    finally:
        host.check_output("sudo systemctl start redis-server")
    host.check_output("sudo clawdbot drain")
    host.check_output("timeout 20 sh -c %s", "until [ -s /run/dingtalk.log ]; do sleep 0.2; done")
    wait_until_ready(host)
    assert host.check_output("sudo grep -c 'echo: while Redis is away' /run/dingtalk.log") == "1"


@pytest.mark.usefixtures("dingtalk")
def test_rules_count_without_a_restart_and_unsound_ones_do_not(host: Host) -> None:
    def processes() -> list[str]:
        units = ("clawdbot.service", "clawdbot-worker.service")
        return [str(host.check_output(f"systemctl show -P MainPID {unit}")) for unit in units]

    before = processes()
    rules = {"everybody": {"greeting": "Welcome to the scenario."}, "people": {"alice": {"may_write": False}}}
    converge(host, "-e" + json.dumps({"clawdbot_rules": rules}))
    time.sleep(3)
    assert "hello" not in reply(host, "alice", "hello")
    assert "Welcome to the scenario." in reply(host, "carol", "hello")
    assert "may_write: False  (people.alice)" in host.check_output("sudo clawdbot explain alice")
    host.check_output(f"sudo sh -c 'echo people: [ > {HOME}/config/bot.yaml'")
    time.sleep(3)
    assert "hello" not in reply(host, "alice", "hello"), "what was there before still counts"
    converge(host)
    time.sleep(3)
    assert "hello" in reply(host, "alice", "hello")
    assert processes() == before


def test_init_env_restarts_the_bot(host: Host) -> None:
    said = host.check_output(f"sudo sh -c 'cd {HOME} && ./init_env.sh --model-type echo --port 18789'")
    assert "the bot answers: curl http://localhost:18789/health" in said


@pytest.mark.parametrize("unit", ["clawdbot.service", "clawdbot-worker.service"])
def test_units_are_confined(host: Host, unit: str) -> None:
    said = host.check_output(f"systemd-analyze security --no-pager {unit} | tail -n 1")
    exposure = float(said.split(":")[1].split()[0])
    assert exposure <= 2.0, said


@pytest.mark.parametrize("unit", ["clawdbot.service", "clawdbot-worker.service"])
def test_a_killed_process_comes_back_by_itself(host: Host, unit: str) -> None:
    before = host.check_output(f"systemctl show -P MainPID {unit}")
    host.check_output(f"sudo kill -9 {before}")
    wait_until_ready(host)  # the socket holds the connection until the new process takes it
    for _ in range(40):
        if host.run(f"systemctl is-active {unit}").stdout.strip() == "active":
            break
        time.sleep(0.5)
    assert host.check_output(f"systemctl show -P MainPID {unit}") not in ("0", before)


def test_a_restart_refuses_no_connection(host: Host) -> None:
    with nobody_refused(host):
        for _ in range(3):
            host.check_output("sudo systemctl restart clawdbot.service")
    wait_until_ready(host)


def test_rotation_under_writes_loses_and_doubles_no_line(host: Host) -> None:
    host.check_output(f"sudo rm -f {HOME}/logs/model_api.log.*")
    as_bot = "sudo setpriv --reuid=clawdbot --regid=clawdbot --clear-groups venv/bin/python"
    if host.run("sudo docker inspect clawdbot-worker").rc == 0:
        as_bot = "sudo docker exec clawdbot-worker python"
    writer = f"cd {HOME}/current && {as_bot} -c '{WRITER}'"
    # An empty log is not rotated.
    begun = f"for try in $(seq 300); do sudo grep -q '^rotation ' {HOME}/logs/model_api.log && break; sleep 0.1; done"
    rotate = f"{begun}; for i in 1 2 3 4 5 6 7; do sleep 1; sudo logrotate --force /etc/logrotate.d/clawdbot; done"
    host.check_output(f"({writer}) & {rotate}; wait; sleep 1")

    found = host.check_output(f"sudo sh -c 'zcat --force {HOME}/logs/model_api.log*'").splitlines()
    numbers = sorted(int(line.split()[1]) for line in found if line.startswith("rotation "))
    assert numbers == list(range(LINES))

    rotated = host.check_output(f"sudo sh -c 'stat -c \"%a %U:%G %s %n\" {HOME}/logs/model_api.log*'").splitlines()
    assert len(rotated) == 8, f"one live file and seven rotated ones are expected: {rotated}"
    assert sum(int(line.split()[2]) > 0 for line in rotated) >= 5, "the rotations did not happen under writes"
    assert rotated[0].startswith("640 root:adm")
    assert all(line.startswith("640 ") for line in rotated), rotated
