"""`python -m mep.endpoint FD`: be the user endpoint whose launch, JSON, is behind FD. The daemon starts it."""

from __future__ import annotations

import os
import sys

from mep.endpoint.boot import preload, run
from mep.engines.worker import flush_output
from mep.wire.launch import decode

if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "rb") as told:
        launch = decode(told.read())
    preload(())
    status = run(launch)
    flush_output()
    os._exit(status)  # sys.exit would wait for threads that users' functions left behind
