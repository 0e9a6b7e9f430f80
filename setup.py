"""The packages of a distribution: the code, and the settings of ``conf/`` as ``deepgcn_seg.conf``."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class FreshBuild(build_py):
    """A build without modules that an earlier one left in its folder, which may be gone from the code."""

    def run(self) -> None:
        """Remove what an earlier build left, then build."""
        shutil.rmtree(Path(self.build_lib) / "deepgcn_seg", ignore_errors=True)
        super().run()


setup(
    packages=[*find_packages(include=["deepgcn_seg*"]), "deepgcn_seg.conf"],
    package_dir={"deepgcn_seg.conf": "conf"},
    cmdclass={"build_py": FreshBuild},
)
