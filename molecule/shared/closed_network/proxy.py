"""The way out of a closed network: an HTTP proxy at port 3129, and at 3130 a company's index of Python packages.

Both want the account. Each request is a line on standard output, with the status if it was refused.
"""

import asyncio
import base64
import functools
import ssl
import urllib.parse
from pathlib import Path

ACCOUNT = base64.b64encode(f"bot:{Path(__file__).with_name('password').read_text('utf-8')}".encode()).decode()
#: Names that nobody else knows, and what of this host they lead to.
NAMES = {"dingtalk.test": 3128, "registry.test": 5000}
INDEX = "pypi.org"


async def connect(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection as the proxy sees the world."""
    return await asyncio.open_connection(*(("127.0.0.1", NAMES[host]) if host in NAMES else (host, port)))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything from one end to the other."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (OSError, RuntimeError, NotImplementedError):
        writer.close()  # an end is gone, or TLS, which knows no half of a connection


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, header: str) -> None:
    """One connection: a request, and what comes after it."""
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in lines)
        index = header == "authorization"
        if headers.pop(header, "") != f"Basic {ACCOUNT}":
            print("401" if index else "407", method, target)
            challenge = "401 Unauthorized\r\nWWW-" if index else "407 Proxy Authentication Required\r\nProxy-"
            writer.write(
                f'HTTP/1.1 {challenge}Authenticate: Basic realm="x"\r\n'
                "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            return
        print("index" if index else "", method, target)
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            there, away = await connect(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            url = urllib.parse.urlsplit(target)
            if index:
                there, away = await asyncio.open_connection(INDEX, 443, ssl=ssl.create_default_context())
                headers["host"] = INDEX
            else:
                there, away = await connect(url.hostname or "", url.port or 80)
            path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
            headers["connection"] = "close"
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            away.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        await asyncio.gather(copy(reader, away), copy(there, writer))
        away.close()
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        print("502", error)
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    finally:
        writer.close()


async def main() -> None:
    """Entry point."""
    servers = [
        await asyncio.start_server(functools.partial(serve, header=header), "127.0.0.1", port, limit=1 << 18)
        for port, header in ((3129, "proxy-authorization"), (3130, "authorization"))
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
