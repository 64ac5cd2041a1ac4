"""The tables. Times are Unix seconds, ids canonical UUID texts, JSON columns hold JSON text.

A task's payload is not stored: the broker keeps it. Only what could not be handed to the broker yet waits in
`outbox`.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text, text

metadata = MetaData()

identities = Table(
    "identities",
    metadata,
    Column("id", Text, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, default=""),
    Column("email", Text, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("disabled", Integer, nullable=False, default=0),
)

tokens = Table(
    "tokens",
    metadata,
    Column("hash", Text, primary_key=True),  # hex SHA-256 of the token, which itself is stored nowhere
    Column("identity_id", Text, nullable=False, index=True),
    Column("kind", Text, nullable=False),  # access | refresh | code
    Column("scope", Text, nullable=False),
    Column("client_id", Text, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("detail", Text, nullable=False, default=""),
)

clients = Table(
    "clients",
    metadata,
    Column("id", Text, primary_key=True),  # also the id of its identity
    Column("name", Text, nullable=False),
    Column("secret_hash", Text, nullable=False),
    Column("created", Float, nullable=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("display_name", Text),
    Column("multi_user", Integer, nullable=False),
    Column("uses_commands", Integer, nullable=False),
    Column("public", Integer, nullable=False),
    Column("high_assurance", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("metadata", Text, nullable=False),  # JSON, as registered, without the schema
    Column("schema", Text, nullable=False),  # JSON
    Column("allowed_functions", Text),  # JSON list; NULL = no restriction
    Column("admins", Text, nullable=False),  # JSON list of identity ids or usernames
    Column("authentication_policy", Text),
    Column("subscription", Text),
    Column("created", Float, nullable=False),
    Column("registered", Float, nullable=False),
    Column("generation", Integer, nullable=False, default=0),  # of its broker password
    Column("locked_until", Float, nullable=False, default=0.0),
    Column("last_seen", Float, nullable=False, default=0.0),
    Column("period_s", Float, nullable=False, default=0.0),
    Column("seals", Integer, nullable=False, default=0),  # 0: stock form; else 1 + the generation of its keys
    Column("stamped", Float, nullable=False, default=0.0),  # when the newest of its sealed notices was issued
    Column("start_key", Text, nullable=False, default=""),  # the newest key for start commands it was told
)

functions = Table(
    "functions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("description", Text, nullable=False, default=""),
    Column("metadata", Text, nullable=False),  # JSON
    Column("public", Integer, nullable=False, default=0),
    Column("created", Float, nullable=False),
)

task_groups = Table(
    "task_groups",
    metadata,
    Column("id", Text, primary_key=True),
    Column("identity_id", Text, nullable=False),
    Column("has_queue", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("seals", Integer, nullable=False, default=0),  # everybody who uses it can open sealed results
)

ueps = Table(
    "ueps",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint_id", Text, nullable=False, index=True),
    Column("identity_id", Text, nullable=False),
    Column("options", Text, nullable=False),  # JSON
    Column("runtime", Text, nullable=False),  # JSON, as submitted
    Column("created", Float, nullable=False),
    Column("generation", Integer, nullable=False, default=0),
    Column("state", Text, nullable=False, default="stopped"),
    Column("last_seen", Float, nullable=False, default=0.0),
    Column("period_s", Float, nullable=False, default=0.0),
    Column("stamped", Float, nullable=False, default=0.0),  # as of endpoints
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("group_id", Text, nullable=False, index=True),
    Column("uep_id", Text, nullable=False),
    Column("function_id", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("done", Float),
    Column("assured", Integer, nullable=False, default=0),  # of a high-assurance endpoint: its result is fetched
)
#: Finding what a user endpoint still owes must not cost more as history grows.
Index("tasks_open", tasks.c.uep_id, sqlite_where=text("done IS NULL"), postgresql_where=text("done IS NULL"))
Index("tasks_done", tasks.c.done, sqlite_where=text("done IS NOT NULL"), postgresql_where=text("done IS NOT NULL"))

results = Table(
    "results",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # the envelope as it came
)

submits = Table(
    "submits",
    metadata,
    Column("key", Text, primary_key=True),
    Column("body_sha256", Text, nullable=False),
    Column("answer", Text, nullable=False),  # JSON
    Column("created", Float, nullable=False, index=True),
    Column("published", Integer, nullable=False, default=0),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),  # task | result
    Column("target", Text, nullable=False),  # the user endpoint's id, or the group queue's name
    Column("headers", Text, nullable=False),  # JSON
    Column("body", LargeBinary, nullable=False),
)

#: Columns that came after the first release: (table, column, type and default), for databases of before.
ADDED = (
    ("endpoints", "seals", "INTEGER NOT NULL DEFAULT 0"),
    ("endpoints", "stamped", "FLOAT NOT NULL DEFAULT 0"),
    ("endpoints", "start_key", "TEXT NOT NULL DEFAULT ''"),
    ("tasks", "assured", "INTEGER NOT NULL DEFAULT 0"),
    ("task_groups", "seals", "INTEGER NOT NULL DEFAULT 0"),
    ("ueps", "stamped", "FLOAT NOT NULL DEFAULT 0"),
)
