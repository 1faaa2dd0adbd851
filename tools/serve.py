"""Serve a page that finds poses: python tools/serve.py --cfg X TEST.MODEL_FILE x.pth"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("serve")
