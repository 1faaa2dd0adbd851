"""Visualize SWAHR's scale maps: python tools/scale_maps.py --cfg X TEST.MODEL_FILE best.pth"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("scale_maps")
