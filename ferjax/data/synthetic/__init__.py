"""The embedded faces and films, which ferjax renders itself."""
