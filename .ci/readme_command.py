"""Print the README's command between the markers `<!-- NAME -->`, so that CI runs what it says."""

import pathlib
import re
import sys

readme = pathlib.Path(__file__).parent.parent / "README.md"
found = re.search(
    rf"<!-- {re.escape(sys.argv[1])} -->\s*```(?:sh|bash)\n(.+?)\n```",
    readme.read_text(encoding="utf-8"),
    re.DOTALL,
)
if found is None:
    sys.exit(f"README.md has no command marked <!-- {sys.argv[1]} -->")
sys.stdout.write(found[1] + "\n")
