"""mep: run Python functions on a site's machines, as yourself."""

__version__ = "0.1.0"
