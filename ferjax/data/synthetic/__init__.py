"""Renders synthetic faces, scenes and video clips."""
