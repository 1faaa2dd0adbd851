"""Weights from one format to another: python tools/convert.py best.pth w32_512.safetensors"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("convert")
