"""hrpose: bottom-up multi-person pose estimation, driven by YAML.

The layers, each knowing only those before it: words (skeletons, structures, ops), parts (data,
models, losses, inference, evaluation, engine, visualize), assembly (config, build), programs.
"""

__version__ = "0.1.0"
