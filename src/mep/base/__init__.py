"""Ground floor: errors and codes, ids, secrets, clock, logging. Imports nothing of mep."""
