"""Published weights by name: python tools/zoo.py --fetch hrnet_w32_imagenet"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("zoo")
