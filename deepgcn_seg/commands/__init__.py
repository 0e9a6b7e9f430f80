"""The command lines: one file for each tool in ``tools/``, from its config to its result.

What they share, from the arguments to the config and from an error to its line, is in :mod:`.command_line`.
"""
