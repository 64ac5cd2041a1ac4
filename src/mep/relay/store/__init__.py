"""What the relay remembers: tables, group-committed writes, reads. The only rooms that know SQL."""

from mep.relay.store.store import Store

__all__ = ["Store"]
