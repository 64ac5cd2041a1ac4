"""What `mep check` looks at: each file by itself, and what one says about another. Nothing is started."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from mep.base.errors import MepError
from mep.cli.context import Cli
from mep.cli.files import (
    load_endpoint,
    parse_mapping,
    parse_schema,
    read_includes,
    read_own,
    template_file,
)
from mep.cli.render import sample_options, this_runtime
from mep.config.endpoint import EndpointConfig
from mep.config.environment import FROM_ACCOUNT, load_user_environment
from mep.config.parsing import ignored_settings
from mep.config.paths import EndpointPaths
from mep.config.user_endpoint import load_user_endpoint_config

T = TypeVar("T")

#: Variables that hold credentials. They are named if they are set; their values are secrets.
CREDENTIALS: Final = (
    "MEP_TOKEN",
    "MEP_CLIENT_ID",
    "MEP_CLIENT_SECRET",
    "GLOBUS_COMPUTE_CLIENT_ID",
    "GLOBUS_COMPUTE_CLIENT_SECRET",
)


@dataclass(frozen=True)
class Finding:
    """`level`: ok | note | warning | error. `subject`: the file or thing it is about."""

    level: str
    subject: str
    text: str
    code: str = ""


@dataclass
class Report:
    """Collects findings; `attempt` turns a failure into one and goes on with None."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, level: str, subject: object, text: str, code: str = "") -> None:
        self.findings.append(Finding(level, str(subject), text, code))

    def attempt(self, subject: object, run: Callable[[], T]) -> T | None:
        try:
            return run()
        except MepError as error:
            text = error.admin_text.removeprefix(f"{subject}: ").removeprefix(f"{subject} ")
            self.add("error", subject, text, error.code.value)
            return None

    @property
    def failed(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)


def check_endpoint(cli: Cli, name: str, *, relay_from_environment: str | None) -> Report:
    """Return the findings about endpoint `name`; InputError(ENDPOINT_UNKNOWN) if there is none."""
    report = Report()
    paths = cli.existing(name)
    found = report.attempt(paths.config, lambda: load_endpoint(cli, name))
    if found is None:
        return report
    report.add("ok", paths.config, "is valid")
    for key, reason in ignored_settings(found.config):
        report.add("note", paths.config, f"{key} has no effect: {reason}")
    _check_relay(report, found.config, paths.config, relay_from_environment)
    _check_mapping(report, cli, found.paths, found.config)
    _check_environment(report, cli, found.paths)
    _check_template(report, cli, found.paths, found.config)
    _check_credentials(report, found.paths)
    if cli.privileged:
        _check_folders(report, found.paths)
        _check_host(report, found.config)
    return report


def _check_folders(report: Report, paths: EndpointPaths) -> None:
    """Where the daemon keeps what steers it, and its audit log. A folder that is not there yet is made by it."""
    from mep.host.trusted import check_directory

    for folder in sorted({paths.state_dir, paths.run_dir, paths.audit_log.parent}):
        if folder.exists():
            report.attempt(folder, lambda folder=folder: check_directory(folder, shared=False))  # type: ignore[misc]


def _check_credentials(report: Report, paths: EndpointPaths) -> None:
    """Only whether there are some: whether the relay takes them is seen at start."""
    stored = paths.state_dir / "credentials.json"
    named = [name for name in CREDENTIALS if os.environ.get(name)]
    if named:
        report.add("ok", "credentials", f"from the environment: {', '.join(named)}")
    elif report.attempt(stored, stored.exists):
        report.add("ok", "credentials", str(stored))
    else:
        report.add(
            "note", "credentials", f"none here: start needs MEP_CLIENT_ID and MEP_CLIENT_SECRET, or {stored}"
        )


def _check_relay(report: Report, config: EndpointConfig, subject: Path, from_environment: str | None) -> None:
    url = report.attempt(subject, lambda: config.relay_url(from_environment))
    if url is None:
        return
    host = urlsplit(url).hostname or ""
    if url.startswith("http:") and host not in ("localhost", "127.0.0.1", "::1"):
        report.add("warning", subject, f"relay {url}: credentials travel unencrypted; use https")
    report.add("ok", "relay", url)


def _check_mapping(report: Report, cli: Cli, paths: EndpointPaths, config: EndpointConfig) -> None:
    if not cli.privileged:
        if paths.mapping.exists():
            report.add(
                "note", paths.mapping, "is not used: an endpoint that root does not start serves its owner only"
            )
        return
    text = report.attempt(paths.mapping, lambda: read_own(paths.mapping))
    if text is None:
        return
    mapping = report.attempt(
        paths.mapping,
        lambda: parse_mapping(text, source=str(paths.mapping), endpoint_id="", timeout_s=config.mapping_timeout_s),
    )
    if mapping is None:
        return
    for warning in mapping.warnings:
        report.add("warning", paths.mapping, warning.removeprefix(f"{paths.mapping}: "))
    for command in mapping.commands:
        if report.attempt(command[0], lambda command=command: _check_command(command)):  # type: ignore[misc]
            report.add("ok", command[0], "is a mapping program that only root can change")
    report.add("ok", paths.mapping, "is valid")


def _check_command(command: tuple[str, ...]) -> bool:
    from mep.host.trusted import check_command

    check_command(command)
    return True


def _check_environment(report: Report, cli: Cli, paths: EndpointPaths) -> None:
    path = paths.environment
    if not path.exists():
        report.add("note", path, "is not there: user endpoints get the standard environment")
        return

    def read() -> str:
        text = read_own(path)
        load_user_environment(text, source=str(path))
        return text

    text = report.attempt(path, read)
    if text is None:
        return
    for name in FROM_ACCOUNT:
        if re.search(rf"^['\"]?{name}['\"]?\s*:", text, re.MULTILINE):
            report.add("warning", path, f"{name} comes from the account; what is set here has no effect")
    report.add("ok", path, "is valid")


def _check_template(report: Report, cli: Cli, paths: EndpointPaths, config: EndpointConfig) -> None:
    from mep.template import check_template

    path = template_file(paths)
    schema: Any = None
    if paths.schema.exists():
        schema_text = report.attempt(paths.schema, lambda: read_own(paths.schema))
        if schema_text is not None:
            schema = report.attempt(paths.schema, lambda: parse_schema(schema_text, source=str(paths.schema)))
            if schema is not None:
                report.add("ok", paths.schema, "is valid")
    else:
        report.add("note", paths.schema, "is not there: users may give any option")
    text = report.attempt(path, lambda: read_own(path))
    if text is None:
        return
    includes = report.attempt(path.parent, lambda: read_includes(path)) or {}
    names = report.attempt(path, lambda: check_template(text, source=str(path), includes=includes))
    if names is None:
        return
    _compare(report, path, names, paths.schema, schema)
    rendered = 0
    for options in sample_options(schema):
        rendered += _render(report, path, text, options, config, includes)
        if report.failed:  # the other samples would mostly say the same again
            break
    else:
        report.add("ok", path, f"is valid; {rendered} sample rendering(s) give a valid user endpoint")


def _compare(report: Report, template: Path, names: frozenset[str], schema_path: Path, schema: Any) -> None:
    """Say which options only one of the two knows."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return
    closed = schema.get("additionalProperties") is False
    for name in sorted(names - set(properties)):
        if closed and "patternProperties" not in schema:
            report.add("warning", template, f"uses the option {name!r}, which {schema_path.name} lets nobody give")
        else:
            report.add(
                "note", template, f"uses the option {name!r}, whose values {schema_path.name} does not restrict"
            )
    for name in sorted(set(properties) - names):
        report.add("note", schema_path, f"describes the option {name!r}, which the template does not use")


def _render(
    report: Report,
    path: Path,
    text: str,
    options: dict[str, Any],
    config: EndpointConfig,
    includes: dict[str, str],
) -> int:
    """Render with sample options; what only the user's missing options cause is a note, not an error."""
    from mep.base.codes import Code
    from mep.template import ReservedVariables, render

    local = {
        "uname": "user",
        "uid": 1000,
        "gid": 1000,
        "gecos": "",
        "shell": "/bin/sh",
        "dir": "/",
        "groups": [1000],
    }
    reserved = ReservedVariables(
        parent_config=config.model_dump(mode="json"),
        user_runtime=this_runtime(),
        mapped_identity={"local": local, "globus": {"id": "00000000-0000-0000-0000-000000000000"}},
    )
    given = f"with {options}" if options else "without options"
    try:
        rendered = render(text, options=options, reserved=reserved, source=str(path), includes=includes)
        settled = load_user_endpoint_config(rendered, source=f"{path}, rendered {given},")
    except MepError as error:
        level = "note" if error.code is Code.TEMPLATE_UNDEFINED else "error"
        report.add(level, path, error.admin_text.removeprefix(str(path)).lstrip(":, "), error.code.value)
        return 0
    if not options:
        for key, reason in ignored_settings(settled):
            report.add("note", path, f"{key} has no effect: {reason}")
        if settled.idle_heartbeats_soft == 0:
            report.add("note", path, "idle_heartbeats_soft is 0: user endpoints stay until they are stopped")
    return 1


def _check_host(report: Report, config: EndpointConfig) -> None:
    from mep.host.accounts import find_account

    try:
        gate = find_account(config.gate_user)
    except MepError:
        gate = None
        missing = f"there is no account {config.gate_user!r}: make it (useradd --system), or set gate_user"
        if "gate_user" in config.model_fields_set:
            report.add("error", "gate_user", missing)
        else:
            report.add("warning", "gate_user", f"{missing}; until then 'nobody' is used")
    if gate is not None and gate.uid == 0:
        report.add("error", "gate_user", "must not be root: the gate is the process that reads the network")
    elif gate is not None:
        report.add("ok", "gate_user", f"{gate.name} (uid {gate.uid})")
    if config.pam.enable and not Path("/etc/pam.d", config.pam.service_name).exists():
        report.add(
            "error", "pam", f"/etc/pam.d/{config.pam.service_name} is not there: PAM would refuse everybody"
        )
    for text in limit_mechanism():
        report.add("ok", "limits", text)


def limit_mechanism() -> Iterator[str]:
    """Say what would hold a user endpoint's processes together, and enforce its limits."""
    from mep.priv.cgroup import attainable, find_base, offered_by_system
    from mep.priv.limits import describe_limits

    if Path("/run/systemd/system").is_dir():
        yield f"as a service (mep@NAME), limited by {describe_limits(offered_by_system())}; started from here:"
    base = find_base()
    if base is None:
        yield f"no cgroup v2 here: processes are held by a subreaper, limited by {describe_limits(())}"
        return
    yield f"processes are held by one cgroup per user endpoint, below {base}"
    yield f"limited by {describe_limits(attainable(base))}"
