"""The command line. Commands are entry points of the group ``telefabric.commands``; none is known here by name."""
