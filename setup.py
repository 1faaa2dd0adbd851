from setuptools import find_packages, setup

setup(
    name="hrpose",
    version="0.1.0",
    description="Bottom-up multi-person pose: HRNet and HigherHRNet with associative embedding",
    license="MIT",
    package_dir={"": "lib"},
    packages=find_packages("lib"),
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
        "munkres>=1.1.2,<2",
        "tensorboardX>=2.6.2",
        "json_tricks>=3.15",
        "tqdm>=4.60",
    ],
    extras_require={
        "dev": ["pytest", "pytest-xdist", "ruff", "mypy", "types-PyYAML", "matplotlib"],
        "report": ["matplotlib"],
        "trackers": ["wandb>=0.31", "mlflow>=3"],
    },
)
