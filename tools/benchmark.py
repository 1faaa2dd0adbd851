"""Measure speed: python tools/benchmark.py train --cfg configs/w32_512.yaml --against reference"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("benchmark")
