"""Who is calling: bearer tokens, client credentials, logins, and the keys that sign."""
