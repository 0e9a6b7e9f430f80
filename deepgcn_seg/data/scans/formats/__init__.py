"""What a scan is, one module for each family of point-cloud formats, and the bounds that all of them keep."""
