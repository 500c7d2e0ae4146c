"""Package metadata; everything else (ruff, mypy, pytest) is configured in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

TENSORFLOW = ">=2.18,<2.22"  # the versions tested; Colab and Kaggle have 2.20 (late 2026)
JAX = "jax>=0.7"

setup(
    name="melanoma-tf",
    version="0.1.0",
    description="TPU-ready melanoma classification on SIIM-ISIC 2020 with TFRecords and Keras EfficientNets",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["tfrecord_tools*", "melanoma_tf*"]), "melanoma_tf.configs"],
    # configs/ lies at the top of the repository, where people look for it, and inside the package once installed.
    package_dir={"melanoma_tf.configs": "configs"},
    # The converter's resampler. Without a C compiler NumPy computes the same bits more slowly.
    ext_modules=[
        Extension(
            "tfrecord_tools.imaging._resample",
            ["tfrecord_tools/imaging/_resample.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,
        )
    ],
    install_requires=[
        f"tensorflow{TENSORFLOW}",
        "keras>=3.11",  # older ones run code from model files (CVE-2025-8747 and others)
        "efficientnet>=1.1.1",
        "h5py>=3.10",
        "numpy>=1.26",
        "pandas>=2.1",
        "scikit-learn>=1.4",
        "pillow>=11",
        "simplejpeg>=1.8",
        "absl-py>=2.1",
        "ml-collections>=1.0",
        "google-crc32c>=1.5",
        "packaging>=23",
        "threadpoolctl>=3.1",
    ],
    extras_require={
        "gpu": [f"tensorflow[and-cuda]{TENSORFLOW}"],
        "tpu": [f"{JAX.replace('jax', 'jax[tpu]')}"],
        "beam": ["apache-beam>=2.60"],
        "export": ["tf2onnx>=1.16", "onnxruntime>=1.20", "ai-edge-litert>=2.0"],
        "addons": [
            "tensorflow-cpu==2.15.1; python_version < '3.12'",
            "tensorflow-addons==0.23.0; python_version < '3.12'",
        ],
        # What benchmarks/build.py and benchmarks/augment.py measure beside ours.
        "bench": [
            "albumentations>=1.4,<2",  # what img2dataset allows
            "img2dataset>=1.47",
            "opencv-python-headless>=4.12",
            "pyvips[binary]>=3.0",
        ],
        "dev": [
            JAX,
            # Compiles for TPUs, which are not needed; wheels for Linux on x86 only.
            f"{JAX.replace('jax', 'jax[tpu]')}; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "apache-beam>=2.60",
            "hypothesis>=6.100",
            "ipykernel>=6.29",
            "mypy>=1.13",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pandas-stubs",
            "pytest>=8",
            "pytest-xdist>=3.7",
            "ruff>=0.8",
        ],
    },
    entry_points={
        "console_scripts": [
            "melanoma-build = tfrecord_tools.build:run",
            "melanoma-verify = tfrecord_tools.verify:run",
            "melanoma-duplicates = tfrecord_tools.duplicates:run",
            "melanoma-show = tfrecord_tools.show:run",
            "melanoma-synthetic = tfrecord_tools.synthetic:run",
            "melanoma-doctor = melanoma_tf.doctor:run",
            "melanoma-preflight = melanoma_tf.preflight:run",
            "melanoma-sheet = melanoma_tf.sheet:run",
            "melanoma-train = melanoma_tf.train:run",
            "melanoma-predict = melanoma_tf.predict:run",
            "melanoma-evaluate = melanoma_tf.evaluate:run",
        ]
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
