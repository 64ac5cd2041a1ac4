"""From an identity set to a local user name, with the rule that said so; no side effects."""
