"""The caps on everything that comes from somewhere else. Bytes unless the name says otherwise."""

MAX_RESULT_CHARS = 10 * 1024 * 1024  # characters of the serialized result, as the stock endpoint counts them
MAX_SUBMIT_BYTES = 64 * 1024 * 1024  # one submit request; stock clients impose no limit of their own
MAX_TASK_BYTES = 20 * 1024 * 1024  # one task's packed code and arguments
MAX_COMMAND_BYTES = 1024 * 1024  # one start command
MAX_TOKEN_BYTES = 48 * 1024  # the signed part of a start command, identity set included
MAX_PRIVSEP_BYTES = 64 * 1024  # one message between monitor, gate and children
MAX_REPORT_BYTES = 1024 * 1024  # one status report
MAX_TEXT_CHARS = 4096  # a human-readable text inside a privsep message

COMMAND_MAX_SKEW_S = 180  # as the stock endpoint: either way
HEARTBEAT_PERIOD_S = 30.0
HEARTBEAT_PERIOD_MIN_S = 5.0
