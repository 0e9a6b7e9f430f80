"""Reports of many runs: their directories read (:mod:`.reading`), and tables, figures and a page made of them."""
