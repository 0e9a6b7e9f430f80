"""Point-cloud files: what a scan is (:mod:`.scan`), reading and writing (:mod:`.files`), finding files, and labels."""
