"""The HTTP side: `create_app` makes the Flask application."""

from clawdbot.web.application import create_app

__all__ = ["create_app"]
