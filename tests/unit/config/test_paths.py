from __future__ import annotations

from pathlib import Path

import pytest

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.endpoint import load_endpoint_config
from mep.config.paths import EndpointPaths

HOME = Path("/home/alice")


def test_roots_default_folder_has_the_systems_state_and_run_folders() -> None:
    paths = EndpointPaths.locate("n", Path("/etc/mep"), True)
    assert (paths.state_dir, paths.control_socket) == (Path("/var/lib/mep/n"), Path("/run/mep/n/control.sock"))


def test_a_users_default_folder_has_that_users() -> None:
    paths = EndpointPaths.locate("n", HOME / ".config/mep", False, home=HOME, runtime_dir=Path("/run/user/7"))
    assert (paths.state_dir, paths.run_dir) == (HOME / ".local/state/mep/n", Path("/run/user/7/mep/n"))
    without = EndpointPaths.locate("n", HOME / ".config/mep", False, home=HOME)
    assert without.run_dir == HOME / ".local/state/mep/n/run"


@pytest.mark.parametrize("privileged", [True, False])
def test_any_other_folder_keeps_everything_in_itself(privileged: bool) -> None:
    paths = EndpointPaths.locate("n", Path("/srv/x"), privileged, home=HOME)
    assert paths.state_dir == paths.run_dir == Path("/srv/x/n/.mep")
    assert paths.config == Path("/srv/x/n/config.yaml")


def test_config_yaml_may_name_other_files() -> None:
    paths = EndpointPaths.locate("n", Path("/srv/x"), True, home=HOME)
    config = load_endpoint_config(
        "identity_mapping_config_path: ids.json\nuser_config_template_path: /t/a.yaml.j2\n", source="c"
    )
    named = paths.configured(config)
    assert (named.mapping, named.template) == (Path("/srv/x/n/ids.json"), Path("/t/a.yaml.j2"))
    assert named.template_fallback == Path("/t/a.yaml")
    assert named.schema == paths.schema


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", ".x", "a b", "a\n", "x" * 129, "ü"])
def test_a_name_that_is_no_plain_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        EndpointPaths.locate(name, Path("/srv/x"), True)
    assert caught.value.code is Code.USAGE
