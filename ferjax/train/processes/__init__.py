"""Several processes that train together: how they find each other, agree, and end together.

Every process runs the same program on its own devices, and the numbers meet in JAX's collectives. Here is the rest:
which process this is, the meeting at the start, the comparison of configurations, what process 0 alone decides, and the
end of all when one of them dies.
"""

from ferjax.train.processes.group import agree, arrays_of_first, is_first, joined, say, value_of_first
from ferjax.train.processes.place import Place, find_place

__all__ = ["Place", "agree", "arrays_of_first", "find_place", "is_first", "joined", "say", "value_of_first"]
