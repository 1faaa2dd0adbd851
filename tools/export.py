"""Ship weights: python tools/export.py --cfg X TEST.MODEL_FILE best.pth --output model.onnx"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"

from hrpose.programs.cli import main

if __name__ == "__main__":
    main("export")
