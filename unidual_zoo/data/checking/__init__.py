"""Whether the files of a data set are what they should be: every one is decoded, compared with all others, and judged.

entries      which files there are, with their labels and splits
examine      what is found in one file
duplicates   which files are the same, or nearly
verdicts     what is wrong with each, which of them to leave out
state        what has been found so far, so that a check that was stopped goes on
report       all of it for a reader, and for a program
check        the whole
"""

from unidual_zoo.data.checking.check import CheckSettings, check_data, check_entries
from unidual_zoo.data.checking.entries import Entry, find_entries

__all__ = ["CheckSettings", "Entry", "check_data", "check_entries", "find_entries"]
