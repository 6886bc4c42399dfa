"""Figures, a module each, which is found by its file name: a new figure is a new file here.

Its docstring is its caption in the report and its help. `TABLE` is the kind of file that it is drawn from, `NEEDS` says
what of an experiment it shows (see `parts.is_wanted`), and `draw` gives the figure, of the rows of that table.
"""
