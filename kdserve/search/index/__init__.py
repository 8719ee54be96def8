"""The index folder: segments, generations, how it is built, changed, described and read."""
