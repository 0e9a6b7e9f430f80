"""How many distances are sampled and how many candidates are kept in a search on a GPU. Imported without Triton."""

import math
from dataclasses import dataclass
from functools import lru_cache

from .launch import power_of_two

# A threshold lies this many standard deviations of the sampling error above what the sample says. Then 1 to 6 in 1000
# rows of independent distances have fewer candidates than wanted (hypergeometric distribution, 1024 to 16384 points,
# k = 16, dilations up to 27).
MARGIN = 2.5
# A list has room for this many standard deviations more candidates than are expected. A network's features are less
# evenly spread than random points, and 3 in 1000 of its rows have more candidates than that.
ROOM = 4.0


@dataclass(frozen=True)
class Limits:
    """What bounds memory and work of a search. Defaults were measured on an H100, list_bytes is derived.

    Attributes:
        list_bytes: memory of the lists of candidates; queries are searched in parts that fit. A query of a block of
            4096 points takes 1.3 KB at dilation 1 and 7.6 KB at dilation 27, k = 16. 96 MiB hold 16 blocks of the
            first kind and 3 of the last, 192 programs of 64 queries each for an H100's 132 processors.
        least_sample, most_sample: points that a row's threshold is taken from: an eighth of all, within these.
        most_sorted: of longer lists, candidates beyond the wanted ones are dropped before they are sorted.
        most_coded: longer lists are sorted by 64-bit pairs. In shorter ones distance and place share 32 bits, half the
            work, and the place leaves at least 22 bits to the distance.
    """

    list_bytes: int = 96 << 20
    least_sample: int = 512
    most_sample: int = 1024
    most_sorted: int = 128
    most_coded: int = 1024


@dataclass(frozen=True)
class Plan:
    """How rows of distances are searched, given their length and the number of candidates needed.

    Attributes:
        wanted: candidates needed. sample: points sampled, every ``stride``-th.
        rank: which of the sampled distances is the threshold, from 1.
        capacity: room for candidates. keep: how many of them are sorted at most, a power of two.
        coded: whether they are sorted by 32-bit codes, which is half the work of sorting distances with all their bits.
        list_bytes: memory of the lists of candidates.
    """

    wanted: int
    sample: int
    stride: int
    rank: int
    capacity: int
    keep: int
    coded: bool
    list_bytes: int


LIMITS = Limits()


@lru_cache(maxsize=256)
def plan_search(wanted: int, count: int, limits: Limits = LIMITS) -> Plan:
    """Return a plan by which few rows have fewer candidates than wanted, or more than there is room for."""
    sample = min(max(power_of_two(count) // 8, limits.least_sample), limits.most_sample)
    # The sample is drawn without replacement. Its variance is smaller by the factor 1 - sample / count.
    expected, spread = wanted * sample / count, math.sqrt(max(1 - sample / count, 0))
    if count <= sample:
        # The sample is everything, but its distances are rounded to float16's three digits.
        sample, slack = max(power_of_two(count), 16), 2 + count // 64
        rank = found = min(wanted + slack, count)
        most = float(min(found + slack, count))
    else:
        rank = min(math.ceil(expected + MARGIN * spread * math.sqrt(expected)) + 1, sample)
        found = rank * count // sample
        most = found * (1 + ROOM * spread / math.sqrt(rank))
    capacity = -(-math.ceil(most) // 16) * 16
    keep = max(power_of_two(wanted), min(power_of_two(found), limits.most_sorted), 16)
    coded = keep <= limits.most_coded
    return Plan(wanted, sample, max(count // sample, 1), rank, capacity, keep, coded, limits.list_bytes)
