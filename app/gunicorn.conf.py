"""gunicorn's settings, for ``gunicorn -c gunicorn.conf.py app:app``. Under systemd the socket is handed over."""

import atexit
import os
import shutil
import socket
import tempfile
from typing import Any as _Any

from clawdbot import config as _config  # gunicorn reads this module's names as settings, and `config` is one
from clawdbot import logs, metrics_folder
from clawdbot.web import worker as _worker
from clawdbot.web.application import START as _START
from gunicorn.glogging import Logger
from gunicorn.workers import gthread as _gthread

if metrics_folder.VARIABLE not in os.environ:
    # The workers' metrics still have to be added up; the worker service's are then not among them.
    os.environ[metrics_folder.VARIABLE] = tempfile.mkdtemp(prefix="clawdbot-metrics-")
    atexit.register(shutil.rmtree, os.environ[metrics_folder.VARIABLE], ignore_errors=True)
metrics_folder.use("web", os.environ)

_settings = _config.load(os.environ)

bind = [f"0.0.0.0:{_settings.port}"]
if "CLAWDBOT_LISTENER" in os.environ:
    # A container inherits no sockets: it fetches those of systemd through this Unix socket, and says there when it is
    # ready. While its port changes there are several.
    _host = socket.socket(socket.AF_UNIX)
    _host.connect(os.environ["CLAWDBOT_LISTENER"])
    bind = [f"fd://{each}" for each in socket.recv_fds(_host, 16, 8)[1]]

    def when_ready(_: object) -> None:
        """Tell the host."""
        _host.sendall(b"ready")
        _host.close()


worker_class = "clawdbot.web.worker.Worker"
workers = _settings.web_workers
threads = _settings.web_threads
# The application is loaded before the fork: a broken release or configuration then fails `systemctl start` instead
# of looping, and the workers share memory. The price is that HUP does not load new code; restart instead, the
# socket keeps the requests meanwhile.
preload_app = True
timeout = 30
graceful_timeout = 30
# Longer than Nginx keeps idle upstream connections, so that it never sends into a closing one.
keepalive = 75
# While a worker that stops waits for kept-alive connections nobody else is accepted, by default two seconds long, and
# DingTalk waits 2.5 s. Nginx repeats a request whose idle connection was closed.
_gthread.STOP_KEEPALIVE_LINGER = _worker.LINGER  # type: ignore[attr-defined]  # the type stubs are older
backlog = 2048
forwarded_allow_ips = _settings.forwarded_allow_ips
# ~64 KB of header lines at most; platforms send a few hundred bytes.
limit_request_fields = 50
limit_request_field_size = 8190
# systemd's RuntimeDirectory= is the only place that is certainly ours.
_runtime_directory = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
control_socket_disable = not _runtime_directory
control_socket = f"{_runtime_directory}/gunicorn.ctl"


def post_worker_init(worker: _worker.Worker) -> None:
    """Whoever takes callbacks also hands over what waits on the disk."""
    app: _Any = worker.wsgi  # a Flask application
    app.extensions[_START]()


class _Logger(Logger):
    """Without access lines: those are the application's, see clawdbot.web.observe, and gunicorn's show the query."""

    def access(self, *_: object) -> None:
        """Write nothing."""


logger_class = _Logger
logconfig_dict = logs.dict_config(_settings)
