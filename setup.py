"""The packages of a distribution: the code, and the settings of ``conf/`` as ``deepgcn_seg.conf``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["deepgcn_seg*"]), "deepgcn_seg.conf"],
    package_dir={"deepgcn_seg.conf": "conf"},
)
