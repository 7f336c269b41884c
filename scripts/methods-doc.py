#!/usr/bin/env python3
"""docs/methods.md from the methods' descriptors: `pare methods --json | scripts/methods-doc.py > docs/methods.md`."""
import json
import sys

PREFACE = """# Methods

Made from the descriptors by `make docs`; `pare methods NAME` says the same. A recipe joins steps with `+`; see
[compress.md](compress.md) for calibration, resuming and what a run takes.
"""


def main():
    print(PREFACE)
    for m in json.load(sys.stdin)["methods"]:
        training = m["slot"] in ("optimizer", "sparse_training")
        print(f"## {m['name']}{' (' + m['slot'].replace('_', ' ') + ')' if training else ''}\n")
        print(f"Slot {m['slot']}, {m['paper']}: {m['summary']}.\n\n{m['help']}\n")
        print(f"    {m['example']}\n")
        print("| parameter | default | range | |\n|---|---|---|---|")
        for p in m["params"]:
            choices = p.get("choices")
            reach = choices.replace("|", ", ") if choices else ""
            if not choices and p["type"] not in ("bool",):
                reach = f"{p['min']:g} to {p['max']:g}"
            default = str(p["default"]).lower() if p["type"] == "bool" else p["default"]
            print(f"| `{p['name']}` | {default} | {reach} | {p['help']} |")
        print()


main()
