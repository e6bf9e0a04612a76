"""What lies between two sites and the world: a link with a delay each way, and a name that leads to one of them.

Usage: world.py FRONT_FILE LISTEN=HOST:PORT:SECONDS ...; port 80 leads to the address in FRONT_FILE.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Carry bytes one way, each piece so long after it came."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)
    loop = asyncio.get_running_loop()

    async def send() -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    sending = asyncio.ensure_future(send())
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            await queue.put((loop.time() + seconds, data))
    await queue.put((loop.time() + seconds, b""))
    await sending


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def listener(target: Callable[[], str], port: int, seconds: float) -> Handler:
    """What becomes of a connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            host = target()
            there, back = await asyncio.wait_for(asyncio.open_connection(host, port), 3)
            await asyncio.gather(carry(reader, back, seconds), carry(there, writer, seconds), return_exceptions=True)
            back.close()
        writer.close()

    return handle


async def main() -> None:
    """Serve until killed."""
    front = Path(sys.argv[1])
    servers = [await asyncio.start_server(listener(lambda: front.read_text().strip(), 80, 0.0), port=80)]
    for each in sys.argv[2:]:
        listen, _, to = each.partition("=")
        host, port, seconds = to.split(":")
        handle = listener(partial(str, host), int(port), float(seconds))
        servers.append(await asyncio.start_server(handle, port=int(listen)))
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
