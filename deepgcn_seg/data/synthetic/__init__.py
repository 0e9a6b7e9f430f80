"""Synthetic rooms in the raw Stanford layout: the embedded default data.

Six areas of offices, conference rooms, lounges and hallways have objects of all 13 classes. Simulated scanners see
them: surfaces are sampled densely, thinned with distance, hidden by what stands before them, and given range noise,
uneven light, an exposure and colour noise. Colours and heights overlap between classes on purpose (board and wall,
beam and ceiling, column and wall, sofa and chair): a board is brighter than the wall it hangs on, but not brighter
than other walls. A point alone does not tell its class; its neighbourhood does.
"""

from .rooms import generate, make_room, write_raw_room

__all__ = ["generate", "make_room", "write_raw_room"]
