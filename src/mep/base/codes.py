"""The stable error codes, and what the person who meets one can do next.

A code never changes its meaning once released: users search for it, scripts match on it, `docs/admin/errors.md`
lists it (a test keeps that page and this table the same).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Code(StrEnum):
    """Every code that a user, an administrator or a script can be shown."""

    # who may: identity, admission
    AUTH_REQUIRED = "AUTH_REQUIRED"
    FORBIDDEN = "FORBIDDEN"
    IDENTITY_NOT_MAPPED = "IDENTITY_NOT_MAPPED"
    IDENTITY_MAPPED_TO_ROOT = "IDENTITY_MAPPED_TO_ROOT"
    IDENTITY_UID_TOO_LOW = "IDENTITY_UID_TOO_LOW"
    IDENTITY_NO_ACCOUNT = "IDENTITY_NO_ACCOUNT"
    IDENTITY_ACCOUNT_RESERVED = "IDENTITY_ACCOUNT_RESERVED"
    IDENTITY_DENIED = "IDENTITY_DENIED"
    IDENTITY_NOT_OWNER = "IDENTITY_NOT_OWNER"
    MAPPING_TIMEOUT = "MAPPING_TIMEOUT"
    MAPPING_FAILED = "MAPPING_FAILED"
    PAM_REFUSED = "PAM_REFUSED"
    ENDPOINT_FULL = "ENDPOINT_FULL"
    USER_LIMIT_REACHED = "USER_LIMIT_REACHED"
    START_RATE_EXCEEDED = "START_RATE_EXCEEDED"
    ENDPOINT_DRAINING = "ENDPOINT_DRAINING"
    ENDPOINT_STOPPING = "ENDPOINT_STOPPING"
    AUDIT_UNWRITABLE = "AUDIT_UNWRITABLE"
    FUNCTION_NOT_ALLOWED = "FUNCTION_NOT_ALLOWED"
    # start commands
    COMMAND_MALFORMED = "COMMAND_MALFORMED"
    COMMAND_TOO_LARGE = "COMMAND_TOO_LARGE"
    COMMAND_STALE = "COMMAND_STALE"
    COMMAND_REPLAYED = "COMMAND_REPLAYED"
    COMMAND_UNSIGNED = "COMMAND_UNSIGNED"
    COMMAND_BAD_SIGNATURE = "COMMAND_BAD_SIGNATURE"
    # what was asked for: options, template, configuration
    OPTIONS_INVALID = "OPTIONS_INVALID"
    OPTIONS_RESERVED = "OPTIONS_RESERVED"
    SCHEMA_INVALID = "SCHEMA_INVALID"
    TEMPLATE_INVALID = "TEMPLATE_INVALID"
    TEMPLATE_UNDEFINED = "TEMPLATE_UNDEFINED"
    CONFIG_INVALID = "CONFIG_INVALID"
    CONFIG_UNKNOWN_KEY = "CONFIG_UNKNOWN_KEY"
    CONFIG_UNREADABLE = "CONFIG_UNREADABLE"
    CONFIG_UNTRUSTED = "CONFIG_UNTRUSTED"
    ENGINE_UNKNOWN = "ENGINE_UNKNOWN"
    ENGINE_FAILED = "ENGINE_FAILED"
    # the way to the user's process
    SPAWN_FAILED = "SPAWN_FAILED"
    PRIVILEGE_NOT_DROPPED = "PRIVILEGE_NOT_DROPPED"
    HOME_MISSING = "HOME_MISSING"
    HOME_NOT_WRITABLE = "HOME_NOT_WRITABLE"
    INTERPRETER_UNREADABLE = "INTERPRETER_UNREADABLE"
    PAYLOAD_MISMATCH = "PAYLOAD_MISMATCH"
    START_TIMEOUT = "START_TIMEOUT"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    PROCESS_STUCK = "PROCESS_STUCK"
    # a task's end other than by its own return
    TASK_FAILED = "TASK_FAILED"
    TASK_MALFORMED = "TASK_MALFORMED"
    TASK_LOST = "TASK_LOST"
    TASK_EXPIRED = "TASK_EXPIRED"
    TASK_TOO_LARGE = "TASK_TOO_LARGE"
    RESULT_TOO_LARGE = "RESULT_TOO_LARGE"
    WORKER_LOST = "WORKER_LOST"
    SERIALIZATION_FAILED = "SERIALIZATION_FAILED"
    DESERIALIZATION_FAILED = "DESERIALIZATION_FAILED"
    TASK_PENDING = "TASK_PENDING"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    UEP_DIED = "UEP_DIED"
    # services
    RELAY_UNREACHABLE = "RELAY_UNREACHABLE"
    RELAY_REFUSED = "RELAY_REFUSED"
    BROKER_UNREACHABLE = "BROKER_UNREACHABLE"
    BROKER_REFUSED = "BROKER_REFUSED"
    ENDPOINT_OFFLINE = "ENDPOINT_OFFLINE"
    NOT_FOUND = "NOT_FOUND"
    LOCKED = "LOCKED"
    INVALID_REQUEST = "INVALID_REQUEST"
    JOURNAL_FULL = "JOURNAL_FULL"
    # the command line
    ENDPOINT_UNKNOWN = "ENDPOINT_UNKNOWN"
    ENDPOINT_EXISTS = "ENDPOINT_EXISTS"
    ALREADY_RUNNING = "ALREADY_RUNNING"
    NOT_RUNNING = "NOT_RUNNING"
    NOT_LOGGED_IN = "NOT_LOGGED_IN"
    USAGE = "USAGE"
    INTERNAL = "INTERNAL"


class NextStep(NamedTuple):
    """What to do next: one sentence each, "" where there is nothing that person could do."""

    user: str
    admin: str


_ASK = "Ask the administrator of this endpoint, naming the request id."
_SEE_OPTIONS = "Correct user_endpoint_config and submit again."

#: Next steps by code; a code that is absent has `_DEFAULT`.
NEXT_STEPS: dict[Code, NextStep] = {
    Code.AUTH_REQUIRED: NextStep(
        "Log in again with `mep login`, or set MEP_TOKEN to a current token.",
        "Make a new token with `mep relay token`, or an endpoint's credentials with `mep relay client`.",
    ),
    Code.NOT_LOGGED_IN: NextStep("Run `mep login`, or set MEP_RELAY_URL and MEP_TOKEN.", ""),
    Code.IDENTITY_NOT_MAPPED: NextStep(
        "Ask the administrator of this endpoint to add your identity to its mapping.",
        "Try `mep map NAME --identity IDENTITY` and correct identity_mapping.json.",
    ),
    Code.IDENTITY_NO_ACCOUNT: NextStep(_ASK, "Create the account, or correct the mapping rule."),
    Code.IDENTITY_MAPPED_TO_ROOT: NextStep(_ASK, "Correct the mapping: no identity may become uid 0."),
    Code.IDENTITY_UID_TOO_LOW: NextStep(_ASK, "Correct the mapping, or lower min_uid in config.yaml."),
    Code.MAPPING_TIMEOUT: NextStep(
        "Submit again; if it happens again, ask the administrator.",
        "The mapping program or the name service was too slow: run it by hand, or raise mapping_timeout_s.",
    ),
    Code.OPTIONS_INVALID: NextStep(_SEE_OPTIONS, ""),
    Code.OPTIONS_RESERVED: NextStep(_SEE_OPTIONS, ""),
    Code.TEMPLATE_UNDEFINED: NextStep(
        "Give the named option in user_endpoint_config.",
        "Give the variable a default in the template, or require it in the schema.",
    ),
    Code.TEMPLATE_INVALID: NextStep(_ASK, "Correct the template; `mep render NAME` shows what it gives."),
    Code.CONFIG_UNKNOWN_KEY: NextStep(_ASK, "Correct the key; `mep check NAME` reads every file."),
    Code.CONFIG_INVALID: NextStep(_ASK, "Correct the file; `mep check NAME` reads every file."),
    Code.ENGINE_UNKNOWN: NextStep(_ASK, "Correct the engine's type or option in the template."),
    Code.HOME_MISSING: NextStep(_ASK, "Create the home directory, or set pam.enable with pam_mkhomedir."),
    Code.HOME_NOT_WRITABLE: NextStep("Free some space or quota in your home directory.", ""),
    Code.TASK_LOST: NextStep(
        "Submit again; if the function may run twice, ask for retry_lost_tasks in the template.", ""
    ),
    Code.WORKER_LOST: NextStep("Check the function for crashes and memory use, then submit again.", ""),
    Code.SERIALIZATION_FAILED: NextStep(
        "Pass and return plain data, or try another strategy of mep.serialize (AllCodeStrategies, JSONData).", ""
    ),
    Code.DESERIALIZATION_FAILED: NextStep(
        "Use the same Python and dill versions on both sides, or a strategy that does not depend on them "
        "(mep.serialize: PureSourceTextInspect, JSONData).",
        "",
    ),
    Code.TASK_PENDING: NextStep("Ask again later, or use a future.", ""),
    Code.VERSION_MISMATCH: NextStep("Upgrade mep: `pip install --upgrade mep`.", "Upgrade the endpoint."),
    Code.RESULT_TOO_LARGE: NextStep("Return less, or write the data to a file and return its path.", ""),
    Code.TASK_TOO_LARGE: NextStep("Send smaller arguments, or put the data in a file and send its path.", ""),
    Code.RELAY_UNREACHABLE: NextStep(
        "Check the relay's address and your network.", "Check that `mep relay serve` runs and is reachable."
    ),
    Code.BROKER_UNREACHABLE: NextStep("", "Check the broker and the network; the daemon keeps trying."),
    Code.ENDPOINT_DRAINING: NextStep("Submit later or to another endpoint: this one finishes its work.", ""),
    Code.START_RATE_EXCEEDED: NextStep("Wait a minute, then submit again.", ""),
    Code.ENDPOINT_OFFLINE: NextStep("Wait until the endpoint is back, or use another.", "Start the endpoint."),
    Code.COMMAND_STALE: NextStep(
        _ASK, "Compare the clocks of the relay and this host, unless the rules have just changed."
    ),
    Code.ENDPOINT_UNKNOWN: NextStep("", "`mep list` shows the configured endpoints."),
    Code.NOT_RUNNING: NextStep("", "Start it with `mep start NAME`."),
    Code.ALREADY_RUNNING: NextStep("", "`mep status NAME` shows it; stop it first with `mep stop NAME`."),
    Code.FORBIDDEN: NextStep(
        "Ask its owner to let you, or log in as somebody else.", "Check who may use it at the relay."
    ),
    Code.IDENTITY_ACCOUNT_RESERVED: NextStep(_ASK, "Correct the mapping, or set another gate_user."),
    Code.IDENTITY_DENIED: NextStep(_ASK, "See denied_* and allowed_* in config.yaml."),
    Code.IDENTITY_NOT_OWNER: NextStep(
        "Use an endpoint of your own, or one that serves many users.",
        "Start the endpoint as root to serve others.",
    ),
    Code.MAPPING_FAILED: NextStep(_ASK, "Run the mapping program by hand; `mep map` runs it, too."),
    Code.PAM_REFUSED: NextStep(_ASK, "See the PAM modules' own messages, and pam.service_name."),
    Code.ENDPOINT_FULL: NextStep(
        "Submit again later, or to another endpoint.", "Raise max_user_endpoints, or the limit that is named."
    ),
    Code.USER_LIMIT_REACHED: NextStep(
        "Use the same user_endpoint_config for more of your tasks, or wait until one has gone idle.",
        "Raise max_user_endpoints_per_user.",
    ),
    Code.ENDPOINT_STOPPING: NextStep("Submit again when the endpoint is back.", ""),
    Code.AUDIT_UNWRITABLE: NextStep(
        _ASK, "Make the audit log writable (disk full?); work goes on by itself then."
    ),
    Code.FUNCTION_NOT_ALLOWED: NextStep("Use a function that is allowed there.", "See allowed_functions."),
    Code.COMMAND_UNSIGNED: NextStep(_ASK, "Use a relay that signs; see require_signed_commands."),
    Code.COMMAND_BAD_SIGNATURE: NextStep(
        _ASK, "Check that the endpoint is registered at this relay; else somebody forges commands."
    ),
    Code.SCHEMA_INVALID: NextStep(_ASK, "Correct the schema; `mep check NAME` reads it."),
    Code.CONFIG_UNREADABLE: NextStep(_ASK, "Check that the file is there and its permissions."),
    Code.CONFIG_UNTRUSTED: NextStep(_ASK, "`chown root` and `chmod go-w` what is named."),
    Code.ENGINE_FAILED: NextStep("Check your options (account, queue ...); else ask the administrator.", ""),
    Code.INTERPRETER_UNREADABLE: NextStep(_ASK, "Install mep where every user can read it."),
    Code.START_TIMEOUT: NextStep(
        "Submit again; if it happens again, ask the administrator.",
        "See the user endpoint's log in the user's ~/.local/state/mep; or raise start_timeout_s.",
    ),
    Code.PROCESS_STUCK: NextStep(
        "Submit again when the file systems of that host answer; ask its administrator.",
        "See which file system its processes in state D wait for (the user's home?); they end when it answers.",
    ),
    Code.LIMIT_EXCEEDED: NextStep("Use less, or ask the administrator for more.", "See limits in config.yaml."),
    Code.TASK_FAILED: NextStep("Correct the function; the remote traceback says where.", ""),
    Code.TASK_EXPIRED: NextStep("Submit again when the endpoint is online.", ""),
    Code.UEP_DIED: NextStep(_ASK, "See the daemon's log, and the user endpoint's in ~/.local/state/mep."),
    Code.RELAY_REFUSED: NextStep("", "Its own words say why; see the relay's log."),
    Code.BROKER_REFUSED: NextStep("", "Restart the endpoint to get new credentials; see the broker's log."),
    Code.NOT_FOUND: NextStep("Check the id, and the relay you talk to.", "Check the id, and the relay."),
    Code.LOCKED: NextStep("Wait until it is back.", "Wait a minute, then start it again."),
    Code.INVALID_REQUEST: NextStep("Correct what is named and send it again.", ""),
    Code.JOURNAL_FULL: NextStep("Free some space or quota in your home directory.", ""),
    Code.ENDPOINT_EXISTS: NextStep("", "Choose another name, or remove it with `mep delete NAME`."),
    Code.USAGE: NextStep("", "`mep COMMAND --help` shows what there is."),
    Code.INTERNAL: NextStep(_ASK, "Please report it with the log's lines and `mep diagnose`."),
}

_DEFAULT = NextStep(_ASK, "See the log for the request id.")


def next_step(code: Code) -> NextStep:
    """Return what the user and the administrator can do about `code`."""
    return NEXT_STEPS.get(code, _DEFAULT)
