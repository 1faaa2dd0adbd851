"""Check what will be trained on: python tools/check_data.py --cfg configs/w32_512.yaml"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("check_data")
