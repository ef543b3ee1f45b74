"""One searchable site of README, pages, studies and API: `make docs`. Whatever the builder warns of is an error.

Pages, and the files of the repository that they link to, keep their paths, so that links work here and on GitHub alike.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "experiments/README.md")
LINK = re.compile(r"\]\(([^)#:\s]+)[^):]*\)")
"""The path of a link or picture; URLs and links within a page have none."""


def copy_pages(folder: Path) -> None:
    """Copy the pages and the files that they link to.

    Raises:
        SystemExit: a link to what is not a file.
    """
    pages = [page for pattern in PAGES for page in sorted(ROOT.glob(pattern))]
    paths = set(pages)
    for page in pages:
        for link in LINK.findall(page.read_text("utf-8")):
            if not (path := (page.parent / link).resolve()).is_file():
                sys.exit(f"error: {page.relative_to(ROOT)} links to {link}: no such file")
            paths.add(path)
    for path in paths:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def write_reference(source: Path, folder: Path, prefix: str = "") -> list[Any]:
    """A page for each module below `source`; returns their navigation, packages with their modules below them."""
    found: list[Any] = []
    for path in sorted(source.iterdir()):
        name = prefix + path.stem
        if path.is_dir() and (path / "__init__.py").exists():
            found.append({path.name: write_reference(path, folder, f"{name}.")})
        elif path.suffix == ".py":
            module = name.removesuffix(".__init__")
            (folder / f"{module}.md").write_text(f"---\ntitle: {module}\n---\n\n::: {module}\n")
            found.append({path.stem.replace("__init__", module): f"{folder.name}/{module}.md"})
    return found


def main(build: Path) -> int:
    """Write the site into `build/docs`; returns the exit code."""
    shutil.rmtree(build / "pages", ignore_errors=True)
    reference = build / "pages" / "api"
    reference.mkdir(parents=True)
    copy_pages(build / "pages")
    config = yaml.safe_load((ROOT / "docs" / "site.yml").read_text())
    package = write_reference(ROOT / "cot_components", reference, "cot_components.")
    config["nav"].append({"API": [*package, {"recipes": write_reference(ROOT / "recipes", reference)}]})
    (mkdocstrings,) = (plugin["mkdocstrings"] for plugin in config["plugins"] if "mkdocstrings" in plugin)
    mkdocstrings["handlers"]["python"]["paths"] = [str(ROOT), str(ROOT / "recipes")]
    (build / "site.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean", "-f", build / "site.yml"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    print(done.stdout + done.stderr.partition("Traceback")[0], end="")  # what it warned of, not how it ended
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
