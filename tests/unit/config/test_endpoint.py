from __future__ import annotations

import pytest
from pydantic import ValidationError

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.endpoint import EndpointConfig, load_endpoint_config
from mep.config.parsing import ignored_settings

FUNCTION = "0123abcd-0000-4000-8000-000000000001"


def load(text: str) -> EndpointConfig:
    return load_endpoint_config(text, source="config.yaml")


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (
            "relay: http://r:5000\nmax_user_endpoint: 3\n",
            Code.CONFIG_UNKNOWN_KEY,
            "config.yaml line 2: max_user_endpoint: no such key. Did you mean 'max_user_endpoints'?",
        ),
        (
            "pam:\n  enabel: true\n",
            Code.CONFIG_UNKNOWN_KEY,
            "line 2: pam.enabel: no such key. Did you mean 'enable'?",
        ),
        (
            "min_uid: root\n",
            Code.CONFIG_INVALID,
            'config.yaml line 1: min_uid: found "root", wanted a valid integer',
        ),
        ("min_uid: 0\n", Code.CONFIG_INVALID, "found 0, wanted greater than or equal to 1"),
        ("relay: ftp://x\n", Code.CONFIG_INVALID, 'line 1: relay: found "ftp://x", wanted an address'),
        ("relay: http://me:secret@x\n", Code.CONFIG_INVALID, "credentials do not belong here"),
        ("allowed_functions: [x]\n", Code.CONFIG_INVALID, 'allowed_functions[0]: found "x", wanted a UUID'),
        ("limits:\n  memory: much\n", Code.CONFIG_INVALID, 'line 2: limits.memory: found "much", wanted a size'),
        ("spawn: thread\n", Code.CONFIG_INVALID, "line 1: spawn: found \"thread\", wanted 'fork' or 'exec'"),
        ("engine:\n  type: X\n", Code.CONFIG_INVALID, "an engine belongs in user_config_template.yaml.j2"),
        ("force_mu_allow_same_user: true\n", Code.CONFIG_INVALID, "refused"),
        ("- a\n", Code.CONFIG_INVALID, "wanted `key: value` lines"),
        ("pam: yes\n", Code.CONFIG_INVALID, "line 1: pam: found true, wanted keys and values"),
    ],
)
def test_a_fault_names_file_line_key_found_and_wanted(text: str, code: Code, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load(text)
    assert caught.value.code is code
    assert says in caught.value.user_text


def test_several_faults_are_told_at_once_three_at_most() -> None:
    with pytest.raises(InputError) as caught:
        load("a: 1\nb: 1\nc: 1\nd: 1\n")
    assert caught.value.user_text.count("no such key") == 3
    assert "(1 more faults are not shown.)" in caught.value.user_text


def test_an_empty_file_means_all_defaults() -> None:
    assert load("") == EndpointConfig() == load("# nothing\n")


def test_settings_are_frozen() -> None:
    config = load("display_name: x\n")
    with pytest.raises(ValidationError):
        config.display_name = "y"


STOCK = f"""
display_name: A stock endpoint
email: help@site.example
public: true
high_assurance: false
allowed_functions: [{FUNCTION}]
authentication_policy: {FUNCTION}
subscription_id: {FUNCTION}
admins: [{FUNCTION}]
amqp_port: 443
heartbeat_period: 1
environment: local
local_compute_services: false
debug: true
identity_mapping_config_path: /etc/x.json
user_config_template_path: t.yaml.j2
user_config_schema_path: s.json
audit_log_path: /var/log/audit
pam: {{}}
mu_child_ep_grace_period_s: 10
multi_user: true
"""


def test_every_stock_key_is_accepted_and_means_the_same() -> None:
    config = load(STOCK)
    assert config.allowed_functions == (FUNCTION,)
    assert config.pam.enable, "a pam section without `enable` switches PAM on"
    assert config.heartbeat_period == 5.0, "the minimum, as in the stock endpoint"
    assert config.relay_url() == "http://localhost:5000"
    assert [key for key, _ in ignored_settings(config)] == ["mu_child_ep_grace_period_s", "multi_user"]


def test_pam_is_off_where_it_is_not_mentioned() -> None:
    assert not load("").pam.enable


def test_the_relay_is_the_files_else_the_environments() -> None:
    assert load("relay: https://r.example/\n").relay_url("http://other:1") == "https://r.example"
    assert load("").relay_url("http://other:1/") == "http://other:1"
    assert load("local_compute_services: true").relay_url("http://other:1") == "http://localhost:5000"
    with pytest.raises(InputError, match="MEP_RELAY_URL"):
        load("").relay_url(None)
    with pytest.raises(InputError, match='MEP_RELAY_URL: relay: found "nowhere"'):
        load("").relay_url("nowhere")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4 GiB", 4 << 30), ("4G", 4 << 30), ("512m", 512 << 20), ("1.5k", 1536), (7, 7), ("0", 0), ("2TB", 2 << 40)],
)
def test_sizes_in_powers_of_1024(text: object, size: int) -> None:
    assert load(f"limits: {{memory: {text!r}}}").limits.memory == size


def test_a_template_can_lower_limits_and_not_raise_them() -> None:
    ours = load("limits: {memory: 4G, pids: 100}").limits
    asked = load("limits: {memory: 8G, pids: 50, cpu: 2}").limits
    assert ours.lowered(asked).model_dump() == {"memory": 4 << 30, "swap": None, "pids": 50, "cpu": 2.0}
    assert ours.lowered(None) == ours


def test_one_name_may_stand_alone() -> None:
    assert load("denied_users: guest\n").denied_users == ("guest",)
