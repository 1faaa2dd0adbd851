"""A page about a run: python tools/report.py output/quickstart/<time> [RUN2 ...]"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("report")
