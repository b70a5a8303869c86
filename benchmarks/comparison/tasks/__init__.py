"""The tasks, one file a kind of data. A file of this folder is read by :mod:`comparison.families`."""
