"""Point-cloud files: what a scan is (:mod:`.formats.scan`), reading and writing (:mod:`.files`), and finding files."""
