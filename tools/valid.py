"""Score weights: python tools/valid.py --cfg configs/w32_512.yaml TEST.MODEL_FILE x.pth"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("valid")
