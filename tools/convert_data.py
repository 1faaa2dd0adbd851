"""A data set as COCO JSON: python tools/convert_data.py --from mpii --annotations X --output Y"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("convert_data")
