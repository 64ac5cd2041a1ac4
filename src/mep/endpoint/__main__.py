"""`python -m mep.endpoint FD`: be the user endpoint whose launch, JSON, is behind FD. The daemon starts it."""

from __future__ import annotations

import os
import sys

from mep.endpoint.boot import preload, run
from mep.wire.launch import decode

if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "rb") as told:
        launch = decode(told.read())
    preload(())
    sys.exit(run(launch))
