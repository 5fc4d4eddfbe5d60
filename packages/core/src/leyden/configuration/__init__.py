"""What operators set for every training in an environment: `read_configuration` finds, reads and checks the file."""

from leyden.configuration.reading import RESERVED, CallbackTable, Configuration, read_configuration

__all__ = ["RESERVED", "CallbackTable", "Configuration", "read_configuration"]
