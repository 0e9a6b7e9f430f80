"""Point clouds of files: what a scan is (:mod:`.scan`), the formats, finding files, and scans with labels."""
