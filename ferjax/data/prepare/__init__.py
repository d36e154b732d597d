"""From a copy of a data set to prepared arrays: decoding, splits, the leak check, contact sheets."""
