"""One declaration per setting: what is written and documented is what is read."""

from __future__ import annotations

import re

from mep.config.endpoint import EndpointConfig, load_endpoint_config
from mep.config.sample import sample
from mep.config.user_endpoint import UserEndpointConfig


def test_the_sample_sets_what_was_given_and_nothing_else() -> None:
    text = sample(
        EndpointConfig, {"relay": "http://r:5000", "display_name": 'a: "b" # c', "pam": {"enable": True}}
    )
    config = load_endpoint_config(text, source="sample")
    assert config.model_fields_set == {"relay", "display_name", "pam"}
    assert config.display_name == 'a: "b" # c'


def test_every_commented_line_of_the_sample_is_a_valid_setting() -> None:
    lines = sample(EndpointConfig).splitlines()
    settings = [re.sub(r"^#", "", line) for line in lines if re.match(r"#( {2})?[a-z_]+:( |$)", line)]
    config = load_endpoint_config("\n".join(settings), source="sample")
    stock = {
        name for name, field in EndpointConfig.model_fields.items() if "Stock setting" in str(field.description)
    }
    assert config.model_fields_set == set(EndpointConfig.model_fields) - stock
    changed = {
        name for name in config.model_fields_set if getattr(config, name) != getattr(EndpointConfig(), name)
    }
    assert changed == {"relay", "email"}, "only settings with an example differ from their defaults"


def test_every_setting_has_a_description() -> None:
    for model in (EndpointConfig, UserEndpointConfig):
        for name, field in model.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name
