"""What the commands share.

In the order of a command's run: :mod:`.arguments` quotes paths for Hydra, :mod:`.main` resumes a run and starts Hydra,
:mod:`.command_settings` says which values each setting may have, :mod:`.checks` refuses impossible ones before any
work, :mod:`.failures` turns errors into a line, :mod:`.sweeps` keeps the jobs of a multirun apart, and :mod:`.help` is
``--help``. For a call from Python, :mod:`.composing` does the same.
"""
