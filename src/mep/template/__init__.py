"""Schema check, quoting and sandboxed rendering of what a user asks for; no side effects."""
