"""Shell commands as functions. They live with serialization, which workers share; this is their SDK address."""

from mep.serialize.shell import BashFunction, MPIFunction, ShellFunction, ShellResult

__all__ = ["BashFunction", "MPIFunction", "ShellFunction", "ShellResult"]
