"""`python -m benchmarks [[--go-on] NAME [ARGUMENTS] | results]`: lists the claims, runs one and adds it to RESULTS.md, or
writes RESULTS.md from the records alone. `--go-on` is for claims of many hours, which write what each of their runs came to in
results/runs: those that are there are not measured again.
"""

import sys

from benchmarks.harness import RESULTS, claims, record, write_results
from vaekit.messages import nearest


def main(argv: list[str]) -> int:
    known, go_on = claims(), argv[:1] == ["--go-on"]
    argv = argv[go_on:]
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m benchmarks [--go-on] NAME [ARGUMENTS], or results")
        print("--go-on: with the runs that an earlier call measured, of a claim that keeps them in results/runs\n")
        print("\n".join(f"  {name:<14} {claim}" for name, claim in known.items()))
        return 0
    if argv[0] == "results":
        write_results()
        print(f"written: {RESULTS}")
        return 0
    if argv[0] not in known:
        print(f"unknown claim {argv[0]!r}{nearest(argv[0], known)}; claims are {', '.join(known)}", file=sys.stderr)
        return 2
    print(record(argv[0], argv[1:], go_on=go_on))
    write_results()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
