"""Measurements: one file for each value of ``measure``, on :mod:`.build`, :mod:`.timing` and :mod:`.output`."""
