"""hrpose: bottom-up multi-person pose estimation, driven by YAML.

The layers, each importing only those before it: skeletons, structures, ops; codecs; data, models,
losses, inference, evaluation, engine, visualize; config, builders; programs.
"""

__version__ = "0.1.0"
