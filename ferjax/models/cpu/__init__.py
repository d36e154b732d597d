"""The forms of convolution, pooling and normalization that XLA's CPU backend runs fast; same values, same gradients."""
