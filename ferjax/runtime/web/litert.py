"""Downloads LiteRT.js, the runtime of the browser page, from the npm registry.

The page's `package-lock.json` pins version, address, SHA-512 and license of each package. The tarballs are kept in the
cache: they have 12 MB, most of it variants of the runtime that the page does not use.
"""

import base64
import json
import pathlib
import tarfile
from collections.abc import Iterator

from ferjax.runtime import fetch

# File of a tarball -> file of the page. The browser loads one of the two variants: with or without relaxed SIMD.
FILES = {
    "@litertjs/core": {
        "package/dist/index.js": "index.js",
        "package/wasm/litert_wasm_internal.js": "litert_wasm_internal.js",
        "package/wasm/litert_wasm_internal.wasm": "litert_wasm_internal.wasm",
        "package/wasm/litert_wasm_compat_internal.js": "litert_wasm_compat_internal.js",
        "package/wasm/litert_wasm_compat_internal.wasm": "litert_wasm_compat_internal.wasm",
    },
    "@litertjs/wasm-utils": {"package/dist/index.js": "wasm-utils.js"},
}


def write(folder: pathlib.Path, lock: pathlib.Path) -> Iterator[str]:
    """Writes the files of LiteRT.js into a folder and yields a line on the license of each package.

    Args:
      folder: an existing folder.
      lock: the package-lock.json.

    Raises:
      InputError: if a package is not in the cache and cannot be downloaded.
    """
    packages = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    for name, files in FILES.items():
        package = packages[f"node_modules/{name}"]
        algorithm, _, digest = package["integrity"].partition("-")
        address = package["resolved"]
        wanted = fetch.Download(
            address, f"litertjs-{address.rpartition('/')[2]}", base64.b64decode(digest).hex(), algorithm
        )
        with tarfile.open(fetch.save(wanted)) as archive:
            for member, target in files.items():
                content = archive.extractfile(member)
                assert content is not None  # the hash pins the content
                (folder / target).write_bytes(content.read())
        yield f"{name} {package['version']}: {package['license']}, {address}"
