"""The extension list, by glob, with its compiler flags; everything else is in pyproject.toml.

FILMROOM_DEBUG=1     bounds checks, line tracing, annotated HTML, no optimisation
FILMROOM_SANITIZE=1  address and undefined-behaviour sanitizers (run with LD_PRELOAD=libasan); `quick`: compiles in a
                     third of the time, for short runs
FILMROOM_EXT=stem    builds that one extension alone
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FILMROOM_DEBUG") == "1"
SANITIZE = {"1": "-O1", "quick": "-O0"}.get(os.environ.get("FILMROOM_SANITIZE", ""))
ONLY = os.environ.get("FILMROOM_EXT", "*")

# A sanitizer's report names lines that still exist at -O1, and compiles in a third of the time.
optimised = [SANITIZE or "-O3", "-g1", "-fno-strict-aliasing"]
compile_args = ["-O0", "-g"] if DEBUG else optimised
link_args: list[str] = []
if SANITIZE:
    sanitizers = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    compile_args += sanitizers
    link_args += sanitizers

# One rule: ext/<stem>.pyx is engine._ext.<stem>.
extensions = [
    Extension(
        f"engine._ext.{source.stem}",
        [str(source)],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        define_macros=[("CYTHON_TRACE", "1")] if DEBUG else [],
    )
    for source in sorted(Path("ext").glob(f"{ONLY}.pyx"))
]

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions,
        include_path=["ext"],
        build_dir="build/cython",
        annotate=DEBUG,
        language_level=3,
        compiler_directives={
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "autotestdict": False,
            "linetrace": DEBUG,
            "embedsignature": False,
        },
    ),
)
