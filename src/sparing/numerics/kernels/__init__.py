"""Compiled loops for large tables: the same results as the plain functions, many rows at a time.

Importing this package loads numba, which takes longer than a small table takes without it; compiled code is
kept on the disk. Who uses it imports it where a table is large enough to win that back.
The loops run on one thread each and release the interpreter lock; callers run blocks of rows side by side.
"""
