"""Output of the live loop: drawing, the window, recordings and the log."""
