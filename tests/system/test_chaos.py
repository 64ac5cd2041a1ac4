"""`./dev chaos` in small: everything is killed once, and every task has its one outcome.

MEP_CHAOS_SEED says which schedule; else it is always the same one in CI, and a new one each time elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from chaos_faults import Chaos, Fault
from support.source import ROOT

SANDBOX = [sys.executable, str(ROOT / "tools" / "sandbox.py"), "--"]
CHAOS = [sys.executable, str(ROOT / "tools" / "chaos.py")]
KINDS = {"relay", "broker", "gate", "monitor", "gate+monitor", "uep", "worker"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_is_killed_each_task_ends_once_and_rightly() -> None:
    drawn = 5 if os.environ.get("CI") else random.randrange(1_000_000)
    seed = os.environ.get("MEP_CHAOS_SEED", str(drawn))
    print(f"again: MEP_CHAOS_SEED={seed}")  # pytest shows it with a failure
    options = ["--tasks", "2000", "--kills", "10", "--minutes", "0.3", "--seed", seed, "--json"]
    done = subprocess.run(
        [*SANDBOX, *CHAOS, *options], capture_output=True, text=True, timeout=280, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-6000:]
    summary = json.loads(done.stdout)
    assert sum(summary["outcomes"].values()) == summary["tasks"] == 2000
    assert summary["outcomes"]["right"] > 1700
    assert set(summary["faults"]) >= KINDS
    assert "left running" not in done.stderr


async def test_between_relay_and_broker_the_kernel_drops_packets_and_all_arrives_late() -> None:
    """These are the sandbox's own packets: its network is nobody else's."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    said: list[str] = []
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    site: Any = SimpleNamespace(broker_port=port, relay=SimpleNamespace(pid=os.getpid()))
    chaos = Chaos(site, said.append)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for kind in ("network broker-drop", "network broker-loss"):
            fault = asyncio.create_task(chaos.run([Fault(0.0, kind, 0.0)]))
            async with asyncio.timeout(20.0):
                while not any(kind in line for line in said):
                    await asyncio.sleep(0.01)
            writer.write(b"through")
            if kind == "network broker-drop":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.read(100), 0.3)
            assert await asyncio.wait_for(reader.readexactly(7), 20.0) == b"through"
            await fault
        assert chaos.done.total() == 2, said
    finally:
        writer.close()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 10.0)
