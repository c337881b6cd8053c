"""Experiments: what a signal is worth, on any model, with intervals. Import names from their modules."""

from importlib.util import find_spec

from seedbed.errors import NotSupported

for _package in ("distributed", "filelock", "scipy"):
    if find_spec(_package) is None:
        raise NotSupported(f"experiments and calibrations need {_package}: pip install 'seedbed[lab]'")
