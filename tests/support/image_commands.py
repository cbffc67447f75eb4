"""Commands that tests run in the image."""

from __future__ import annotations

COMPILE = """
import os, subprocess, sys, torch
from triton.backends.nvidia import driver
from triton.runtime.build import _build
folder = sys.argv[1]
# For the linker: the driver's own library is there with a GPU only.
subprocess.run(["gcc", "-shared", "-o", f"{folder}/libcuda.so.1", "-x", "c", "/dev/null"], check=True)
source = os.path.join(driver.dirname, "driver.c")
_build("cuda_utils", source, folder, [driver.libdevice_dir, folder], driver.include_dirs, driver.libraries, [])
x = torch.randn(64, 100)
torch.testing.assert_close(torch.compile(lambda x: (x * 2 + 1).relu().sum(dim=1))(x), (x * 2 + 1).relu().sum(dim=1))
"""
