"""Where the workers of an engine work."""

from __future__ import annotations

import os

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.config.engines import EngineConfig
from mep.engines.base import Surroundings
from mep.engines.worker import Bench
from mep.serialize.facade import Serializer


def make_bench(config: EngineConfig, around: Surroundings, *, owns_process: bool) -> Bench:
    """Return where workers work: `working_dir`, relative to the user endpoint's directory, made if need be."""
    Serializer(allowed=config.allowed_serializers or ())  # complains now, not at the first task
    wanted = os.path.expanduser(config.working_dir)
    directory = os.path.join(around.state_dir, wanted)
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise HostError(
            Code.HOME_NOT_WRITABLE, f"The engine's working_dir {directory} cannot be made: {error.strerror}."
        ) from None
    return Bench(
        uep_id=around.uep_id,
        working_dir=directory,
        sandbox=bool(getattr(config, "run_in_sandbox", False)),
        owns_process=owns_process,
        allowed_serializers=config.allowed_serializers or (),
    )
