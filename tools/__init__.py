"""Commands of the maintainers; a package, as another installed one, tf2onnx, brings a folder of this name."""
