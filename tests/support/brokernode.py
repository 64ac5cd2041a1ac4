"""Run a private RabbitMQ node until stdin ends: `python brokernode.py DIR`. Prints its URLs as JSON when ready."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from mep.relay.rabbit import PrivateRabbit


async def main() -> None:
    """Start the node, say where it is, stop it when nobody wants it any more."""
    node = PrivateRabbit(Path(sys.argv[1]))
    address = await node.start()
    urls = {"amqp": address.amqp.reveal(), "management": address.management.reveal()}
    print(json.dumps(urls), flush=True)
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, gone.set)  # readable = end of file: nothing is ever sent
    await gone.wait()
    os._exit(0)  # the data are thrown away: the kernel kills the node with us, in no time


if __name__ == "__main__":
    asyncio.run(main())
