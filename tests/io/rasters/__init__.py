"""Image files as numbers: each format's files are written, and the values compared, by its own library."""
