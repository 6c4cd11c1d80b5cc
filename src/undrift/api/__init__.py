"""The public functions that have the options of the commands, and how options are read.

Each function takes the options of the command of its name as keywords, returns its result, and
prints nothing but progress bars and messages on stderr. The command reads its options from the
command line, calls the function, and shows and saves the result.
"""
