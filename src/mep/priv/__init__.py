"""The only room with fork, set*id, cgroups, capabilities and kill."""
