"""The command, driven as users type it."""
