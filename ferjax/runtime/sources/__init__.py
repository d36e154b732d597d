"""Where frames come from: cameras, films, pictures, folders, network streams."""
