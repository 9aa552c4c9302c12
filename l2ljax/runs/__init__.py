"""One training run: settings in, a folder out, resumable."""
