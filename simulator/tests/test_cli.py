"""The commands, as they are typed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from clawdbot_simulator.cli import main
from clawdbot_simulator.client import Control
from clawdbot_simulator.config import Config, ConfigError, load_config

from .conftest import toy_bot


@pytest.fixture
def config_file(sim: Control, tmp_path: Path) -> str:
    path = tmp_path / "simulator.json"
    path.write_text(sim.config.to_json())
    return str(path)


def test_converse_shows_who_said_what(sim: Control, config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with toy_bot(sim) as url:
        assert main(["converse", "--config", config_file, "--callback-base", url]) == 0
    shown = capsys.readouterr().out
    for words in (
        "DingTalk · single chat",
        "Li Lei  你好",
        "clawdbot  echo: 你好",
        "Feishu · group “Friends",
        "6 of 6",
    ):
        assert words in shown


def test_converse_fails_without_an_answer(sim: Control, config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["converse", "--config", config_file, "--message", "hi", "--timeout", "0.3"]
    with toy_bot(sim, lambda number, text: [text] if number == 0 else []) as url:
        assert main([*command, "--callback-base", url]) == 1
    shown = capsys.readouterr().out
    assert "✗ no answer" in shown
    assert "1 of 2 messages" in shown
    assert main([*command, "--callback-base", "http://127.0.0.1:1", "--platforms", "feishu"]) == 1
    assert "✗ callback failed: ConnectionError" in capsys.readouterr().out


def test_load_reports_to_people_and_programs(
    sim: Control, config_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["load", "--config", config_file, "--rate", "20", "--duration", "1", "--duplicates", "0.2"]
    with toy_bot(sim) as url:
        assert main([*command, "--callback-base", url]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["answered_once"] == 20
    assert shown.err.startswith("ok: 20 messages")


@pytest.mark.parametrize("wrong", [["--rate", "0"], ["--platforms", "slack"], ["--duplicates", "2"]])
def test_wrong_options_are_refused(config_file: str, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["load", "--config", config_file, "--callback-base", "http://127.0.0.1:1", *wrong])
    assert stopped.value.code == 2


def test_serve_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    path = tmp_path / "simulator.json"
    config = Config.random(f"http://127.0.0.1:{port}")
    path.write_text(config.to_json())
    command = [sys.executable, "-m", "clawdbot_simulator", "serve", "--config", str(path), "--port", port]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(f"simulator on 127.0.0.1:{port}")
            assert Control(config).records() == []
            taken = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=20, check=False)
            refusal = f"cannot listen on 127.0.0.1:{port}: Address already in use\n"
            assert (taken.returncode, taken.stderr) == (2, refusal)
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_new_config_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-config", "--public-url", "http://10.0.0.5:9000/"]) == 0
    path = tmp_path / "simulator.json"
    path.write_text(capsys.readouterr().out)
    assert load_config(path).public_url == "http://10.0.0.5:9000"


def test_all_problems_of_a_configuration_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "simulator.json"
    raw = json.loads(Config.random("http://x").to_json())
    raw["dingtalk"]["aes_key"] = "short"
    raw["feishu"]["app_id"] = 5
    del raw["control_token"]
    raw["extra"] = raw["model"].pop("api_key")
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).splitlines() == [
        f"{path}: extra: unknown key; remove it",
        f"{path}: control_token: must be a non-empty string",
        f"{path}: feishu.app_id: must be a non-empty string",
        f"{path}: dingtalk.aes_key: must have 43 characters, has 5",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "not valid JSON"), ("[]", "must be a JSON object"), ('{"dingtalk": 1}', "dingtalk: must be an object")],
)
def test_a_broken_configuration_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "simulator.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        load_config(path)


def test_a_missing_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.json")]) == 2
    assert "new-config" in capsys.readouterr().err
