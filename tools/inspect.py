"""See what will be trained on: python tools/inspect.py --cfg configs/w32_512.yaml"""

import sys
from os.path import abspath, dirname

sys.path[0] = dirname(dirname(abspath(__file__))) + "/lib"  # tools/ hides Python's own inspect

from hrpose.programs.inspect import main  # noqa: E402

if __name__ == "__main__":
    main()
