"""The data sets: one module reads each form in which people have it."""
