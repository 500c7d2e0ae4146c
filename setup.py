"""Builds the C extension and lists the packages; the metadata is in pyproject.toml."""

from setuptools import Extension, find_packages, setup

setup(
    packages=[*find_packages(include=["tfrecord_tools*", "melanoma_tf*"]), "melanoma_tf.configs"],
    # configs/ lies at the top of the repository, where people look for it, and inside the package once installed.
    package_dir={"melanoma_tf.configs": "configs"},
    # Optional: without a C compiler NumPy gives the same bits, more slowly.
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
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
