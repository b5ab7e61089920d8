"""`Manager.map`: rows of arguments that travel in chunks; a row that fails fails alone.

The modules:

    sizing      how many rows the next chunk gets
    chunk       one chunk, and what follows from its answer
    rest        rows that are not in a chunk yet
    watch       events of rows, for observers, and the count of a bar
    mapper      one call of `map`: gives chunks to the supervisor and acts on their answers
    adapting    a mapper that sizes its chunks itself
    lazy        a mapper that pulls its input as the results are taken
    start       which of them a call gets
    results     the iterator that the user gets
"""
