"""What the relay is told of an endpoint when it is registered."""

from __future__ import annotations

import platform
import socket

import mep
from mep.daemon.files import LiveFiles
from mep.daemon.settings import Endpoint
from mep.wire.rest import RegistrationMetadata, RegistrationRequest


def registration_of(endpoint: Endpoint, files: LiveFiles) -> RegistrationRequest:
    """Return it as the files are now."""
    config, template = files.config, files.template
    return RegistrationRequest(
        endpoint_name=endpoint.name,
        display_name=config.display_name,
        metadata=RegistrationMetadata(
            endpoint_version=mep.__version__,
            python_version=platform.python_version(),
            hostname=socket.gethostname(),  # getfqdn would ask the network, and wait for it
            local_user=endpoint.owner.name,
            endpoint_config=endpoint.config_text,
            user_config_template=template.text,
            user_config_schema=files.schema or {},
        ),
        public=config.public,
        high_assurance=config.high_assurance,
        multi_user=endpoint.privileged,
        allowed_functions=list(config.allowed_functions) if config.allowed_functions is not None else None,
        authentication_policy=config.authentication_policy,
        subscription_uuid=config.subscription_id,
        admins=list(config.admins) or None,
    )
