"""The WSGI application, for ``gunicorn app:app``."""

from clawdbot.web import create_app

app = create_app()
