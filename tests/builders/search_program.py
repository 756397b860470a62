"""Carry out the tiny search in processes, as a program that can be killed: FOLDER STORE SETTING..."""

import sys
from pathlib import Path

from search_builders import tiny_recipe

from diffmem.studies.search.study import SearchStudy

if __name__ == "__main__":
    SearchStudy(tiny_recipe(*sys.argv[3:]), Path(sys.argv[1]), Path(sys.argv[2])).execute(warn=print)
