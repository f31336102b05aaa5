"""A TCP relay that can cut all connections to a server, and later accept connections again."""

import asyncio
import contextlib
import threading


class Relay:
    """A relay that listens on a free loopback port and forwards each connection to `host`:`port`. While
    `is_cut` is true, it closes every connection immediately.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.is_cut = False
        self.port = 0

    def __enter__(self) -> "Relay":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self) -> None:
        self.is_cut = True
        self._loop.call_soon_threadsafe(self._end_all)

    def mend(self) -> None:
        self.is_cut = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._pass, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def _end_all(self) -> None:
        for writer in self._open:
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError):
            if not self.is_cut:
                there, back = await asyncio.open_connection(*self._target)
                self._open.add(back)
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
                self._open.discard(back)
        writer.close()
        self._open.discard(writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
