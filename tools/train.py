"""Train a network: python tools/train.py --cfg configs/w32_512.yaml [KEY VALUE ...]"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("train")
