"""What is on the disk and has to be right: files that appear whole, one writer at a time, strict readers.

- `files`: write aside, flush, rename; every failure is a `StorageError` that names the path.
- `arrow`: tables as Arrow files, read back mapped into memory.
- `locks`: one writer at a time, across processes.
- `readers`: TOML and JSON from outside, read into a type, with errors that say what is allowed.
"""
