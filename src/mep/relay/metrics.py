"""What /metrics shows. One registry per process; names and labels are documented in docs/admin/relay.md."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("mep_relay_requests_total", "HTTP requests answered.", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "mep_relay_request_seconds",
    "Time to answer, by route.",
    ["route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0),
)
TASKS = Counter("mep_relay_tasks_total", "Tasks accepted.")
RESULTS = Counter(
    "mep_relay_results_total",
    "Results received, by what became of them (new, again, duplicate, ...).",
    ["verdict"],
)
COMMANDS = Counter("mep_relay_start_commands_total", "Start commands sent.")
START_FAILURES = Counter("mep_relay_start_failures_total", "User endpoints that did not start, by code.", ["code"])
UEPS = Gauge("mep_relay_user_endpoints", "User endpoints, by state.", ["state"])
ENDPOINTS_ONLINE = Gauge("mep_relay_endpoints_online", "Endpoints whose heartbeats arrive.")
TASKS_OPEN = Gauge("mep_relay_tasks_unfinished", "Tasks accepted and not finished.")
BROKER_UP = Gauge("mep_relay_broker_connected", "1 while the relay is connected to its broker.")
