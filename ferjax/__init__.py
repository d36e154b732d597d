"""ferjax: from labelled faces to a small emotion model on the edge."""

__version__ = "0.1.0"
