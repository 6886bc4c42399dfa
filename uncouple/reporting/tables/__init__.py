"""Tables, a module each, which is found by its file name: a new table is a new file here.

Its docstring is its caption in the report and its help. `TABLES` are the kinds of files that it is made of, `NEEDS`
says what of an experiment it shows (see `parts.is_wanted`), and `fill` gives its sections, of what is in those files.
`FILES`, where it has them, are files of the clone that it reads besides.
"""
