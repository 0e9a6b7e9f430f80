"""Point clouds of files: what a scan is, the formats, finding files, and scans with labels."""

from .files import read_scan, write_scan
from .scan import Scan
from .search import find_scans

__all__ = ["Scan", "find_scans", "read_scan", "write_scan"]
