"""The command line, and the first set-up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from clawdbot import cli, config, setup
from clawdbot.engine.queue import DeadLetter, Queue
from clawdbot.errors import ConfigError

from .conftest import RedisServer, Reply, Run, ScriptedServer, eventually, free_port
from .site import APP
from .test_queue import message


def bury(client: redis.Redis, *names: str) -> None:
    queue = Queue(client, "test")
    queue.prepare()
    for name in names:
        sent = message(name, name=name)
        queue.accept(sent)
        [lease] = queue.take(1, 1)
        begun = queue.begin(lease)
        assert begun
        queue.bury(lease, DeadLetter.of(sent, begun, "the reason"))


def test_dead_letters(run: Run, client: redis.Redis) -> None:
    assert run("dead", "list") == (0, "")
    bury(client, "a", "b", "c")
    code, listed = run("dead", "list")
    assert code == 0
    assert listed.splitlines()[0].split("  ")[1:] == ["dingtalk:a", "attempts=1", "the reason"]
    assert run("dead", "retry", "dingtalk:a") == (0, "retry: 1\n")
    assert run("dead", "drop", "--all") == (0, "drop: 2\n")
    assert run("dead", "list") == (0, "")
    assert "messages waiting:      1" in run("queue")[1]


def test_dead_letter_that_cannot_be_read_is_shown_as_bytes(run: Run, client: redis.Redis) -> None:
    queue = Queue(client, "test")
    queue.prepare()
    queue.accept(message("a"))
    client.lset("clawdbot:conv:dingtalk:a", 0, "\x1b[31m gar\nbage")
    [lease] = queue.take(1, 1)
    begun = queue.begin(lease)
    assert begun
    queue.bury(lease, DeadLetter.unreadable(lease, begun, "message of version 'a'"))
    code, listed = run("dead", "list")
    assert code == 0
    first, second = listed.splitlines()
    assert "cannot be read: message of version 'a'" in first
    assert second == r"  b'\x1b[31m gar\nbage'"
    assert run("dead", "retry", first.split("  ")[1]) == (0, "retry: 1\n")


def test_dead_letters_need_a_name(run: Run, client: redis.Redis) -> None:
    bury(client, "a")
    assert run("dead", "drop") == (1, "error: name messages, or say --all\n")
    code, text = run("dead", "drop", "dingtalk:a", "dingtalk:x")
    assert code == 1
    assert "dingtalk:x: no such dead letter" in text
    assert len(list(Queue(client).dead())) == 1


@pytest.fixture
def durable(client: redis.Redis) -> Iterator[None]:
    """A Redis that writes everything to its disk at once, which takes tests that look at nothing else too long."""
    client.config_set("appendfsync", "always")
    yield
    client.config_set("appendfsync", "no")


@pytest.mark.usefixtures("durable")
def test_check(run: Run, environ: dict[str, str]) -> None:
    assert run("check") == (0, "configuration: good\n")
    folder = Path(environ["CLAWDBOT_CONFIG_DIR"])
    (folder / "dingtalk.yaml").unlink()
    code, text = run("check")
    assert (code, text.count("warning: "), text.count("error: ")) == (0, 1, 0), "one platform is enough"
    (folder / "dingtalk.yaml").write_text("{")
    code, text = run("check")
    assert code == 1
    assert text.startswith("error: ")
    code, text = run("check", "--start")
    assert code == 0
    assert text.startswith("to do: ")


@pytest.mark.usefixtures("durable")
def test_check_knows_what_redis_must_be(
    run: Run, environ: dict[str, str], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("clawdbot.store.OLDEST_REDIS", 70)
        code, text = run("check")
        assert (code, " is too old; install version 70.0 or later" in text) == (1, True)
        assert run("check", "--start")[0] == 0
    client.replicaof("127.0.0.1", "1")
    try:
        assert "is a replica" in run("check")[1]
    finally:
        client.replicaof("NO", "ONE")
    for name, value, cure in (
        ("appendonly", "no", "appendonly yes"),
        ("appendfsync", "everysec", "appendfsync always"),
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy volatile-ttl"),
        ("maxmemory", "1", "the memory of Redis is full"),
    ):
        usual = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            code, text = run("check")
        finally:
            client.config_set(name, str(usual))
        assert (code, text.count("\n"), text.startswith("warning: "), cure in text) == (0, 1, True, True)
    eventually(lambda: run("check")[1] == "configuration: good\n")
    # Where somebody else runs Redis, its settings may be nobody's business.
    client.acl_setuser("default", enabled=True, nopass=True, commands=["-config"])
    try:
        assert run("check") == (0, "configuration: good\n")
    finally:
        client.acl_setuser("default", enabled=True, nopass=True, commands=["+config"])
    (Path(environ["CLAWDBOT_CONFIG_DIR"]) / "cache.yaml").write_text(f"port: {free_port()}")
    code, text = run("check")
    assert code == 0
    assert text.startswith("warning: ")
    assert "Redis is away" in text


def test_without_redis(run: Run, environ: dict[str, str]) -> None:
    (Path(environ["CLAWDBOT_CONFIG_DIR"]) / "cache.yaml").write_text(f"port: {free_port()}")
    code, text = run("queue")
    assert code == cli.EX_UNAVAILABLE
    assert "is it running" in text


def test_push(run: Run, server: ScriptedServer, environ: dict[str, str]) -> None:
    server.on("/robot/send", Reply({"errcode": 0}))
    assert run("push", "hello") == (0, "sent\n")
    assert server.requests[0].body["text"] == {"content": "hello"}
    server.on("/robot/send", Reply({"errcode": 310000}))
    code, text = run("push", "hello")
    assert (code, "310000" in text) == (1, True)
    (Path(environ["CLAWDBOT_CONFIG_DIR"]) / "dingtalk.yaml").unlink()
    assert run("push", "hello")[0] == cli.EX_CONFIG


@pytest.mark.usefixtures("clean_logging")
def test_worker_without_a_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_TYPE", "gpt")
    code, text = run("worker")
    assert code == cli.EX_CONFIG
    assert "python -m clawdbot check" in text


@pytest.mark.usefixtures("clean_logging")
def test_worker_until_sigterm(run: Run) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def end_it() -> None:
        eventually(lambda: signal.getsignal(signal.SIGTERM) != before[0])
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end_it)
    thread.start()
    try:
        assert run("worker")[0] == 0
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


# Set-up


def test_set_up_creates_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    done = setup.create(folder, {"MODEL_TYPE": "gpt", "CLAWDBOT_PORT": "18000", "MODEL_API_KEY": "sk-1"})
    assert len([line for line in done if line.startswith("created")]) == 4
    assert oct(folder.stat().st_mode)[-3:] == "700"
    for name in setup.FILES:
        assert oct((folder / name).stat().st_mode)[-3:] == "600"
    shell = ["sh", "-c", '. "$1"; echo "$MODEL_TYPE $CLAWDBOT_PORT $MODEL_API_KEY $CLAWDBOT_LOG_DIR"', "sh"]
    found = subprocess.run([*shell, folder / "clawdbot.env"], capture_output=True, text=True, check=True)
    assert found.stdout == f"gpt 18000 sk-1 {tmp_path}/logs\n"
    problems = config.load({"CLAWDBOT_CONFIG_DIR": str(folder), "MODEL_TYPE": "gpt", "MODEL_API_KEY": "k"}).problems
    # What only the platforms can give is still to do; the rest was generated.
    assert {problem.key for problem in problems} == {"app_key", "app_secret", "app_id", "verification_token"}


def test_set_up_keeps_what_is_there(tmp_path: Path) -> None:
    setup.create(tmp_path, {"MODEL_TYPE": "gpt"})
    before = {name: (tmp_path / name).read_text() for name in setup.FILES}
    (tmp_path / "clawdbot.env").chmod(0o640)
    assert setup.create(tmp_path, {"MODEL_TYPE": "", "CLAWDBOT_PORT": ""}) == []
    assert {name: (tmp_path / name).read_text() for name in setup.FILES} == before
    assert setup.create(tmp_path, {"MODEL_TYPE": "qwen", "NEW": "x"}) == [
        f"set MODEL_TYPE, NEW in {tmp_path}/clawdbot.env"
    ]
    text = (tmp_path / "clawdbot.env").read_text()
    assert text.count("MODEL_TYPE=") == 1
    assert text.endswith("NEW='x'\n")
    assert oct((tmp_path / "clawdbot.env").stat().st_mode)[-3:] == "640"


def test_two_set_ups_have_different_secrets(tmp_path: Path) -> None:
    for name in ("a", "b"):
        setup.create(tmp_path / name, {})
    for file in ("dingtalk.yaml", "feishu.js"):
        assert (tmp_path / "a" / file).read_text() != (tmp_path / "b" / file).read_text()


def test_set_up_refuses_what_cannot_work(run: Run, tmp_path: Path) -> None:
    code, text = run("init", "--config-dir", str(tmp_path / "c"), "--model-type", "gtp")
    assert code == cli.EX_CONFIG
    assert "choose one of echo" in text
    with pytest.raises(ConfigError, match="MODEL_API_KEY has a character"):
        setup.create(tmp_path / "d", {"MODEL_API_KEY": "it's"})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="run this as the owner"):
        setup.create(tmp_path / "file" / "config", {})
    assert run("init", "--config-dir", str(tmp_path / "e"))[0] == 0


@pytest.fixture
def release(tmp_path: Path, redis_server: RedisServer) -> Iterator[Path]:
    """The application in a folder of its own, with the virtual environment of the tests."""
    ignored = shutil.ignore_patterns(".*", "venv", "tests", "logs", "run")
    folder = tmp_path / "release"
    shutil.copytree(APP, folder, ignore=ignored)
    venv = folder / "venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    lock = subprocess.run(
        ["sha256sum"], input=(folder / "requirements.txt").read_bytes(), capture_output=True, check=True
    )
    (venv / ".lock").write_bytes(lock.stdout)
    home = tmp_path / "home"
    home.mkdir()
    (home / "init_env.sh").symlink_to(folder / "init_env.sh")
    (home / "config").mkdir()
    (home / "config" / "cache.yaml").write_text(f"port: {redis_server.port}\n")
    yield home
    for pid in (home / "run").glob("*.pid"):
        with_group = int(pid.read_text())
        try:
            os.killpg(with_group, signal.SIGKILL)
        except ProcessLookupError:
            continue


def init_env(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "HOME": str(home), **environ}
    return subprocess.run([home / "init_env.sh", *arguments], capture_output=True, text=True, env=clean, timeout=600)


def test_init_env_starts_the_bot_and_may_be_run_again(release: Path) -> None:
    port = str(free_port())
    first = init_env(release, "--model-type", "echo", "--port", port)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"the bot answers: curl http://localhost:{port}/health" in first.stdout
    assert "to do: " in first.stdout
    pids = [file.read_text() for file in sorted((release / "run").glob("*.pid"))]
    assert len(pids) == 2
    again = init_env(release)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "stopping the running web" in again.stdout
    assert "created" not in again.stdout
    assert pids != [file.read_text() for file in sorted((release / "run").glob("*.pid"))]
    eventually(lambda: not any(Path("/proc", pid.strip()).exists() for pid in pids))


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["--port", "abc"], "the usual one is 18789"),
        (["--port", "70000"], "from 1 to 65535"),
        (["--port"], "needs a value"),
        (["--bogus"], "--help"),
        (["--model-type", "gtp"], "choose one of"),
        (["--model-type", "gpt", "--no-start"], "MODEL_API_KEY: is missing"),
    ],
)
def test_init_env_names_the_cure(release: Path, arguments: list[str], cure: str) -> None:
    done = init_env(release, *arguments)
    assert done.returncode != 0
    assert cure in done.stdout + done.stderr


def test_init_env_takes_the_key_from_the_shell(release: Path) -> None:
    done = init_env(release, "--model-type", "gpt", "--no-start", MODEL_API_KEY="sk-from-the-shell")
    assert done.returncode == 0, done.stderr
    assert "sk-from-the-shell" not in done.stdout + done.stderr
    assert "MODEL_API_KEY='sk-from-the-shell'" in (release / "config" / "clawdbot.env").read_text()


def test_init_env_takes_every_setting_of_the_model(release: Path) -> None:
    prompt = 'It\'s {date}.\nSay "hello" to {name}, and \\n is no new line.'
    given = {"MODEL_SYSTEM_PROMPT": prompt, "MODEL_EXTRA_FIELDS": '{"enable_thinking": false}', "MODEL_STREAM": "false"}
    for _ in range(2):
        assert init_env(release, "--no-start", **given).returncode == 0
    file = release / "config" / "clawdbot.env"
    shell = ["sh", "-c", 'set -a; . "$0"; exec env --null', str(file)]
    said = subprocess.run(shell, capture_output=True, text=True, check=True, env={}).stdout
    found = dict(line.split("=", 1) for line in said.split("\0") if line)
    assert {name: found[name] for name in given} == given
    assert file.read_text().count("MODEL_SYSTEM_PROMPT=") == 1


def test_init_env_leaves_the_model_to_ansible(release: Path) -> None:
    init_env(release, "--no-start", MODEL_NAME="first")
    (release / "config" / "service.env").write_text("CLAWDBOT_PORT=18789\n")
    init_env(release, "--no-start", MODEL_NAME="of an old shell")
    assert "MODEL_NAME='first'" in (release / "config" / "clawdbot.env").read_text()


def test_init_env_leaves_the_port_to_ansible(release: Path) -> None:
    (release / "config" / "service.env").write_text("CLAWDBOT_PORT=18789\n")
    done = init_env(release, "--port", "18790", "--no-start")
    assert done.returncode == 1
    assert "clawdbot_port in the inventory" in done.stderr


def test_init_env_help(release: Path) -> None:
    done = init_env(release, "--help")
    assert (done.returncode, "Usage: ./init_env.sh" in done.stdout) == (0, True)
