"""Every verdict of the book, computed from the records of all studies by one code path."""
