"""Run an ablation: python tools/ablate.py --cfg configs/ablations/swahr_table3 --preset bench"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("ablate")
