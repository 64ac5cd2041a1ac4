"""A user endpoint that has nothing to do costs little memory of its own, so that many users fit on one machine."""

from __future__ import annotations

from pathlib import Path

from support.remote import WAIT_S, by_source, process_id
from support.rigs import MakeEndpoint, SdkEnv

#: Of its own: what it does not share with the process it was forked from. It has 9.3; 200 x 10 MiB and the shared
#: part are well below what 200 user endpoints may have (docs/admin/performance.md).
MOST_MIB = 10.0


def private_mib(pid: int) -> float:
    """Return what the process shares with nobody, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def test_an_idle_user_endpoint_with_threads_has_at_most_10_mib_of_its_own(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint()
    measured = []
    for user in ("alice", "bob"):
        sdk_env(f"{user}@example.org")
        with by_source(site.id) as executor:
            measured.append(private_mib(executor.submit(process_id).result(WAIT_S)))
    assert max(measured) <= MOST_MIB, measured
