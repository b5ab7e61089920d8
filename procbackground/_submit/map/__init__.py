"""`Manager.map`: rows of arguments that travel in chunks, and fail each for itself.

`mapper` gives chunks and takes values; `chunk` decides what follows from an answer, `sizing` how large the next chunk
is; `results` is the iterator that the user has.
"""
