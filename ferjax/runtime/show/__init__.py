"""Shows and saves the results of the live loop: drawing, window, log, recording, snapshots."""
