"""Compiles the native kernels, src/regard/accel/c, into the wheel: a library for each kind of processor.

A wheel that is built without a C compiler, or not on Linux on x86-64, has no library and fits every machine; regard
then compiles the kernels when it first uses them, if it can.
"""

from __future__ import annotations

import platform
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ACCEL = Path("src/regard/accel")


class NativeKernels(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        processors = runpy.run_path(str(Path(self.root, ACCEL, "processors.py")))
        compiler = processors["compiler"]()
        if version == "editable" or compiler is None or sys.platform != "linux" or platform.machine() != "x86_64":
            return
        self.folder = tempfile.TemporaryDirectory()
        for name, (kind, _) in processors["KINDS"].items():
            into = Path(self.folder.name, processors["file_of"](name))
            source = Path(self.root, ACCEL, "c", "stack.c")
            done = subprocess.run(processors["command"](compiler, kind, str(source), str(into)), capture_output=True)
            if done.returncode:
                self.app.display_warning(f"{compiler} does not know {name}: the wheel goes without it")
                continue
            build_data["force_include"][str(into)] = f"regard/accel/{into.name}"
        if build_data["force_include"]:
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-linux_x86_64"  # the libraries do not depend on the version of Python

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()
