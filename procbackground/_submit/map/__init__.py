"""The work of `Manager.map`."""
