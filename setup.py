import re
from pathlib import Path

from setuptools import find_packages, setup

ABOUT = (Path(__file__).parent / "lib" / "hrpose" / "__init__.py").read_text()

setup(
    name="hrpose",
    version=re.search(r'__version__ = "(.+)"', ABOUT)[1],
    description="Bottom-up multi-person pose: HRNet and HigherHRNet with associative embedding",
    license="MIT",
    package_dir={"": "lib"},
    packages=find_packages("lib"),
    package_data={"hrpose.report": ["template.html"], "hrpose.web": ["page.html"]},
    python_requires=">=3.10",
    # Ranges in which the parts work; requirements.txt pins what the figures were made with.
    install_requires=[
        "torch>=2.6,<3",
        "numpy>=1.26,<3",
        "opencv-python-headless>=4.8",
        "yacs>=0.1.8,<0.2",
        "PyYAML>=6.0",
        "pycocotools>=2.0.8",
        "scipy>=1.10",
        "tensorboardX>=2.6.2",
        "tqdm>=4.60",
    ],
    extras_require={
        "dev": [
            *("pytest", "pytest-xdist", "pytest-timeout", "hypothesis", "munkres>=1.1.2,<2"),
            *("ruff", "mypy", "types-PyYAML", "matplotlib", "pandas>=2.1"),
        ],
        "ablations": ["pandas>=2.1", "jinja2"],
        "report": ["matplotlib", "jinja2"],
        "weights": ["safetensors>=0.4"],
        "export": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"],
        "detector": ["torchvision>=0.21"],  # that of the installed torch: 0.21 is that of 2.6
        "loggers": ["wandb>=0.31"],
        "notebook": ["ipykernel>=6", "nbclient>=0.8", "nbformat>=5.2"],  # docs/tour.ipynb
    },
)
