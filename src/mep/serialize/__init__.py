"""Packing of calls and values, byte-compatible with the stock strategies. Runs users' pickles: never imported by root code or relay."""
