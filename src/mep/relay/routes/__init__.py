"""The HTTP routes, one file per noun. They decode, ask, and answer; rules live elsewhere."""
