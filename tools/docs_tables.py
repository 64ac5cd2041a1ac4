"""Write the generated parts of docs/admin and etc/: `python tools/docs_tables.py`, after a setting changed.

In a page they stand between `<!-- generated: NAME -->` and `<!-- end -->`. A test says when they are behind.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mep.cli.errorpage import codes_table, exits_table
from mep.config.endpoint import EndpointConfig
from mep.config.engines import EngineConfig, GlobusComputeEngine, ProcessPoolEngine, ThreadPoolEngine
from mep.config.sample import reference, sample
from mep.config.user_endpoint import UserEndpointConfig

_PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_ENGINES: Final[tuple[type[EngineConfig], ...]] = (ThreadPoolEngine, ProcessPoolEngine, GlobusComputeEngine)

PARTS: Final[dict[str, Callable[[], str]]] = {
    "codes": codes_table,
    "exits": exits_table,
    "endpoint-settings": lambda: reference(EndpointConfig),
    "user-endpoint-settings": lambda: reference(UserEndpointConfig),
    "engine-settings": lambda: "\n".join(reference(engine) for engine in _ENGINES),
}


def wanted(root: Path) -> dict[Path, str]:
    """Return what each file with generated parts should hold."""
    files = {
        page: _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", page.read_text(encoding="utf-8"))
        for page in sorted((root / "docs/admin").glob("*.md"))
    }
    files[root / "etc/config.yaml"] = sample(EndpointConfig, heading="A sample config.yaml: all settings.")
    for default in sorted((root / "src/mep/config/defaults").iterdir()):
        files[root / "etc" / default.name] = default.read_text(encoding="utf-8")
    return files


def main() -> int:
    """Write what differs; print its name."""
    root = Path(__file__).resolve().parent.parent
    for path, text in wanted(root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
