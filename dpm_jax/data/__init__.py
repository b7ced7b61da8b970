"""Data sets: each module makes or loads one kind of data; none knows the rest of the library."""
