"""The command `seedbed doctor`: what is installed, and what each feature lacks."""

import os
import platform
import re
from importlib import import_module, metadata
from typing import Any

import typer

import seedbed
from seedbed.cli import options as opt
from seedbed.cli.commands import silence_libraries
from seedbed.cli.outputs import print_json
from seedbed.errors import BadInput, reason

_FEATURES = {  # by extra
    "core": "generate, select, score, contact-sheet, replay, edit, maps, noise inspect",
    "lab": "lab, calibrate, study, verifier audit, noise spread, noise fit, the digits world",
    "ui": "ui",
    "train": "--lora, adapters in train",
}
_MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}  # where a package is imported by another name
_DECLARED = re.compile(r"([\w-]+)(\S*?)(?:; extra == .(\w+).)?")
_VERSION = re.compile(r"(?<![\w.+])\d+(?:\.\d+)*")


def doctor(as_json: bool = opt.AS_JSON) -> None:
    """Show versions, devices, and for each feature what is missing and how to install it.

    Imports every package, since an installed one may be broken. Exits with 1 where the core lacks one.
    """
    silence_libraries()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        declared = [_DECLARED.fullmatch(line) for line in metadata.requires("seedbed") or ()]
    except metadata.PackageNotFoundError:
        raise BadInput("seedbed runs from files that pip has not installed: pip install them") from None
    packages: dict[str, dict[str, str]] = {}
    features: dict[str, dict[str, Any]] = {}
    for extra, use in _FEATURES.items():
        needs = {found[1]: found[2] for found in declared if found and (found[3] or "core") == extra}
        packages |= {name: _look(name, versions) for name, versions in needs.items()}
        missing = [f"{name} ({problem})" for name in needs if (problem := packages[name]["problem"])]
        install = "pip install " + ("seedbed" if extra == "core" else f"'seedbed[{extra}]'")
        state = f"missing {', '.join(missing)}: {install}" if missing else "ready"
        features[extra] = {"for": use, "missing": missing, "state": state}
    facts = {"seedbed": f"{seedbed.__version__} in {os.path.dirname(seedbed.__file__)}"}
    facts["python"] = f"{platform.python_version()} on {platform.platform()}"
    lists = {} if features["core"]["missing"] else _means()
    if as_json:
        print_json({}, **facts, **lists, packages=packages, features=features)
    else:
        lines = [*facts.items(), *((what, each) for what, some in lists.items() for each in some)]
        lines += [(name, "{:<14} {:<14} {}".format(*it.values())) for name, it in packages.items()]
        lines += [(name, f"{state['state']}, for {state['for']}") for name, state in features.items()]
        print("\n".join(f"{name:<14} {text}".rstrip() for name, text in lines))
    raise typer.Exit(bool(features["core"]["missing"]))


def _look(name: str, needs: str) -> dict[str, str]:
    """Which version is installed, "–" for none, and what is wrong with it, "" for nothing."""
    installed = "–"
    try:
        installed = metadata.version(name)
        import_module(_MODULES.get(name, name))
        has, *limits = ([int(n) for n in it.split(".")] for it in _VERSION.findall(f"{installed},{needs}"))
        pairs = zip(re.findall("[<>]=?", needs), limits, strict=True)
        problem = "" if all((has >= at) == (sign == ">=") for sign, at in pairs) else f"needs {needs}"
    except metadata.PackageNotFoundError:
        problem = "not installed"
    except Exception as error:  # whatever a broken package raises
        problem = f"cannot be imported: {reason(error)}"
    return {"installed": installed, "needs": needs, "problem": problem}


def _means() -> dict[str, list[str]]:
    """What models can run on, as `--device` names it, and which files videos can be written to."""
    import av
    import torch

    from seedbed.report.video import ENCODERS, ENDINGS

    gpus = [f"cuda:{i}, {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    none = f"no GPU: torch is built {'for CUDA and finds none' if torch.version.cuda else 'without CUDA'}"
    gone = {ending for ending, (_, encoder, _) in ENCODERS.items() if encoder not in av.codecs_available}
    devices = [f"cpu, {torch.get_num_threads()} threads", *(gpus or [none])]
    return {"device": devices, "writes": [ending for ending in ENDINGS if ending not in gone]}
